"""Read questions from JSONL: the fields determine the format, and an invalid line is refused by number."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.tasks.public import infinitebench, longbench, plain, ruler
from namm_runtime.tasks.public.question import Question
from namm_runtime.tasks.public.record import BadRecord, Record


def read(path: Path) -> Iterator[Question]:
    """Yield the questions of a JSONL file of LongBench, RULER, InfiniteBench or the user's own.

    Raises:
        Refusal: `bad_tasks`, with file, line number and reason.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    yield _question(json.loads(line), path)
                except BadRecord as error:
                    raise _refusal(path, number, str(error)) from None
                except ValueError as error:  # bad JSON and bytes that are not UTF-8
                    raise _refusal(path, number, f"not a line of JSON in UTF-8: {error}") from None
    except OSError as error:
        raise Refusal("bad_tasks", f"{path} cannot be read: {error.strerror}") from None


def _question(value: Any, path: Path) -> Question:
    if not isinstance(value, dict):
        raise BadRecord("it must be a JSON object")
    record = Record(value)
    if "outputs" in value:
        return ruler.question(record, path)
    if {"dataset", "all_classes", "answers"} <= value.keys():
        return longbench.question(record)
    if "answer" in value and "answers" not in value:
        return infinitebench.question(record, path)
    return plain.question(record, path)


def _refusal(path: Path, number: int, reason: str) -> Refusal:
    return Refusal("bad_tasks", f"{path}, line {number}: {reason}")
