"""RULER (arXiv 2404.06654): one prompt that holds the document and, as its last lines, the question.

The question is cut off, because the document is read before any question is known; where a file has been
made with a chat template inside its prompts, make it without one. The task is the folder's name, as RULER
lays its files out (`niah_single_1/validation.jsonl`), or the file's own.
"""

import re
from pathlib import Path

from namm_runtime.tasks.public.question import Question
from namm_runtime.tasks.public.record import BadRecord, Record

# What every question of RULER's begins with, on a line of its own.
_QUESTION = re.compile(r"\n(?=Question:|What (?:is|are) )")
_TOKENS = (("niah", 128), ("vt", 30), ("variable_tracking", 30), ("cwe", 120), ("common", 120), ("fwe", 50),
           ("freq", 50), ("qa", 32))  # fmt: skip
_SPLITS = ("validation", "test", "train")


def question(record: Record, path: Path) -> Question:
    prompt = record.text("input")
    cuts = [match.end() for match in _QUESTION.finditer(prompt)]
    if not cuts:
        raise BadRecord("the prompt has no line that begins with 'Question:', 'What is' or 'What are'")
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
