"""RULER (arXiv 2404.06654): one prompt that contains the document and, in its last lines, the question.

The question is split off, because the document is read before any question is known. Generate the files
without a chat template in the prompts. The task is the folder's name in RULER's layout
(`niah_single_1/validation.jsonl`), or else the file's name.
"""

import re
from pathlib import Path

from namm_runtime.tasks.public.question import Question
from namm_runtime.tasks.public.record import BadRecord, Record

# How every question in RULER starts, on its own line.
_QUESTION = re.compile(r"\n(?=Question:|What (?:is|are) )")
_TOKENS = (("niah", 128), ("vt", 30), ("variable_tracking", 30), ("cwe", 120), ("common", 120), ("fwe", 50),
           ("freq", 50), ("qa", 32))  # fmt: skip
_SPLITS = ("validation", "test", "train")


def question(record: Record, path: Path) -> Question:
    prompt = record.text("input")
    cuts = [match.end() for match in _QUESTION.finditer(prompt)]
    if not cuts:
        raise BadRecord("the prompt has no line that starts with 'Question:', 'What is' or 'What are'")
    task = path.parent.name if path.stem in _SPLITS else path.stem
    task = record.text("task", task)
    asked = prompt[cuts[-1] :] + record.text("answer_prefix", "", empty=True)
    return Question(
        task=task,
        context=record.text("context", prompt[: cuts[-1]]),
        input=asked,
        answers=record.texts("outputs"),
        metric="contains" if task.startswith("qa") else "contains_all",
        max_output_tokens=next((tokens for start, tokens in _TOKENS if task.startswith(start)), 128),
    )
