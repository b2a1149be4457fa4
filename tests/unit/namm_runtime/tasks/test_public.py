"""Public formats become questions, and a bad line is refused by its number."""

import json
from pathlib import Path

import pytest

from namm_runtime.errors import Refusal
from namm_runtime.tasks.public import Question, read


def written(tmp_path: Path, name: str, *lines: object) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def only(path: Path) -> Question:
    (question,) = read(path)
    return question


LONGBENCH = {
    "input": "Who wrote it?",
    "context": "Ada wrote it.",
    "answers": ["Ada"],
    "length": 3,
    "dataset": "hotpotqa",
    "language": "en",
    "all_classes": None,
    "_id": "5a",
}


def test_longbench(tmp_path):
    question = only(written(tmp_path, "hotpotqa.jsonl", LONGBENCH))
    assert (question.task, question.metric, question.answers) == ("hotpotqa", "f1", ("Ada",))
    assert question.context == "Ada wrote it."
    assert "Who wrote it?" in question.input
    assert question.max_output_tokens == 32


def test_longbench_classes_and_tasks_without_a_question(tmp_path):
    trec = LONGBENCH | {"dataset": "trec", "all_classes": ["Food", "City"], "answers": ["City"]}
    report = LONGBENCH | {"dataset": "gov_report_e", "input": ""}
    first, second = read(written(tmp_path, "mixed.jsonl", trec, report))
    assert (first.metric, first.classes) == ("classification", ("Food", "City"))
    assert (second.metric, second.task, second.max_output_tokens) == ("rouge_l", "gov_report_e", 512)
    assert second.input.strip()


def test_ruler_cuts_the_question_off_the_prompt(tmp_path):
    prompt = "Some magic numbers are hidden.\nQuestion: an old one\nHay.\nWhat is the special magic number?"
    line = {"index": 0, "input": prompt, "outputs": ["4711"], "length": 40, "answer_prefix": " It is"}
    question = only(written(tmp_path, "niah_single_1/validation.jsonl", line))
    assert question.context.endswith("Hay.\n")
    assert question.input == "What is the special magic number? It is"
    assert (question.task, question.metric, question.max_output_tokens) == (
        "niah_single_1",
        "contains_all",
        128,
    )
    other = {"index": 0, "input": "Documents.\nQuestion: Who?", "outputs": ["Ada", "A. Byron"]}
    question = only(written(tmp_path, "qa_1.jsonl", other))
    assert (question.metric, question.answers) == ("contains", ("Ada", "A. Byron"))


def test_infinitebench(tmp_path):
    line = {"id": 1, "context": "Hay 71432 hay", "input": "The key?", "answer": ["71432"], "options": []}
    question = only(written(tmp_path, "passkey.jsonl", line))
    assert (question.task, question.metric) == ("passkey", "first_number")
    choice = line | {"answer": ["the dog"], "options": ["a cat", "the dog", "no", "yes"]}
    question = only(written(tmp_path, "longbook_choice_eng.jsonl", choice))
    assert question.answers == ("the dog", "B")
    assert "B. the dog" in question.input
    calculation = only(written(tmp_path, "math_calc.jsonl", line | {"answer": [1, 3, -2]}))
    assert calculation.answers == ("1", "3", "-2")


def test_anybodys_file(tmp_path):
    line = {
        "input": "Q",
        "context": "C",
        "answers": "A",
        "task": "mine",
        "metric": "edit",
        "max_output_tokens": 5,
    }
    question = only(written(tmp_path, "mine.jsonl", line))
    assert (question.task, question.answers, question.metric, question.max_output_tokens) == (
        "mine",
        ("A",),
        "edit",
        5,
    )
    bare = only(written(tmp_path, "mine.jsonl", "", {"input": "Q", "context": "C", "answers": [4]}))
    assert (bare.task, bare.answers, bare.metric) == ("mine", ("4",), "f1")


GOOD = {"input": "Q", "context": "C", "answers": ["A"]}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not a line of JSON"),
        ([1], "a JSON object"),
        ({"input": "Q", "answers": ["A"]}, "'context' is missing"),
        (GOOD | {"context": " "}, "'context' is empty"),
        (GOOD | {"context": 5}, "'context' must be a string"),
        (GOOD | {"context": "\ud800"}, "'context' contains invalid characters"),
        (GOOD | {"answers": []}, "'answers' is empty"),
        (GOOD | {"answers": [{}]}, "'answers' must be a list"),
        (GOOD | {"metric": "best"}, "unknown metric 'best'"),
        (GOOD | {"max_output_tokens": 0}, "'max_output_tokens'"),
        (LONGBENCH | {"dataset": "hotpot"}, "no dataset 'hotpot'"),
        (LONGBENCH | {"input": ""}, "needs a question"),
        ({"input": "no question here", "outputs": ["A"]}, "starts with 'Question:'"),
        ({"input": "Q", "context": "C", "answer": ["A"]}, "no task 'bad'"),
        (
            {"input": "Q", "context": "C", "answer": ["A"], "task": "code_debug", "options": ["A"]},
            "four options",
        ),
    ],
)
def test_bad_lines_are_refused_with_file_line_and_reason(tmp_path, line, reason):
    path = written(tmp_path, "bad.jsonl", GOOD, "", line)
    with pytest.raises(Refusal) as refusal:
        list(read(path))
    assert refusal.value.code == "bad_tasks"
    assert f"{path}, line 3: " in refusal.value.message
    assert reason in refusal.value.message


def test_bytes_that_are_no_text_and_missing_files_are_refused(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"input": "\xff"}\n')
    for path in (tmp_path / "x.jsonl", tmp_path / "none.jsonl"):
        with pytest.raises(Refusal, match=path.name):
            list(read(path))
