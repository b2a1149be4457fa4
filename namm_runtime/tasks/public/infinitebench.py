"""InfiniteBench (arXiv 2402.13718): the task is the file's name, and each task has its own metric."""

from dataclasses import dataclass
from pathlib import Path

from namm_runtime.tasks.public.question import Question
from namm_runtime.tasks.public.record import BadRecord, Record


@dataclass(frozen=True)
class _Task:
    """A task's prompt, metric and answer length in tokens."""

    ask: str
    metric: str
    tokens: int


_ASK = "{input}\n"
_QUESTION = "Question: {input}\nAnswer in a few words.\nAnswer:"
_CHOICE = "{input}\n{options}\nAnswer with one letter.\nAnswer:"

_TASKS = {
    "passkey": _Task(_ASK + "The pass key is", "first_number", 6),
    "number_string": _Task(_ASK + "The sequence of digits is", "first_number", 12),
    "kv_retrieval": _Task(_ASK, "word", 50),
    "longbook_qa_eng": _Task(_QUESTION, "f1", 40),
    "longbook_qa_chn": _Task("问题：{input}\n请简短地回答。\n回答：", "f1_characters", 40),
    "longbook_choice_eng": _Task(_CHOICE, "choice", 40),
    "longbook_sum_eng": _Task("Summarise the book above.\nSummary:", "rouge_lsum", 1200),
    "longdialogue_qa_eng": _Task("Which character is $$MASK$$?\nAnswer with one name.\nAnswer:", "word", 40),
    "math_find": _Task(_ASK, "first_number", 3),
    "math_calc": _Task(
        "Give every intermediate value of the expression above.\nValues:", "leading_numbers", 30000
    ),
    "code_run": _Task(_ASK + "The value is", "last_number", 5),
    "code_debug": _Task("Which function above has an error?\n{options}\nThe correct option is", "choice", 5),
}


def question(record: Record, path: Path) -> Question:
    name = record.text("task", path.stem)
    task = _TASKS.get(name)
    if task is None:
        raise BadRecord(
            f"the field 'answer' means InfiniteBench, which has no task '{name}' (from the file's name; its "
            f"tasks are {', '.join(_TASKS)}). In other files, name the field 'answers'"
        )
    options = record.texts("options", empty=True) if record.fields.get("options") else ()
    answers = record.texts("answer")
    if task.metric == "choice":
        answers = _with_letter(answers, options)
    asked = task.ask.replace("{input}", record.text("input", "", empty=True))
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False))
    return Question(
        task=name,
        context=record.text("context"),
        input=asked.replace("{options}", listed),
        answers=answers,
        metric=task.metric,
        max_output_tokens=task.tokens,
    )


def _with_letter(answers: tuple[str, ...], options: tuple[str, ...]) -> tuple[str, ...]:
    """The correct option as its text and its letter."""
    if len(options) != 4:
        raise BadRecord(f"the field 'options' must have four options, not {len(options)}")
    letters = [letter for letter, option in zip("ABCD", options, strict=True) if option in answers]
    if not letters:
        if any(answer in "ABCD" for answer in answers):
            return answers
        raise BadRecord("none of the options is the answer")
    return (*answers, *(letter for letter in letters if letter not in answers))
