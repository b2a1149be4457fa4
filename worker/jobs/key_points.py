"""Extracts the key points of a summary from what a model wrote, and finds their places in the document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worker.jobs.passages import DocumentText

# What a model writes before a point: a dash, an asterisk, a bullet or a number, perhaps in bold.
_BULLET = re.compile(
    r"^\s*(?:#+\s+)?"
    r"(?:[-*•–]\s+|(?:\*\*)?(?:\(?|(?:key )?(?:point|sentence) )\d{1,3}(?:\*\*)?[.):](?:\*\*)?\s+)+",
    re.IGNORECASE,
)
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»')
_ONLY_QUOTED = re.compile(rf"^(?:{_QUOTED.pattern})[.,;]?$")
# A full stop, perhaps in quotation marks, before a capital letter or a quotation. Not after an initial.
_SENTENCE_END = re.compile(
    r"""(?:(?<=[^\W\d_]{2}[.!?])|(?<=[\d)%][.!?])|(?<=[.!?]["”»]))\s+(?=[^\W\d_a-zß-ÿ]|["“„«])"""
)
_NOT_WORDS = re.compile(r"[\W_]+")


def key_points_of(answer: str) -> list[tuple[str, str]]:
    """The points of an answer, one a line, each with the passage to locate.

    That is the point's longest quotation, or the whole point if it quotes nothing. A quotation on a line of
    its own belongs to the line before. Lines without words, and those that only announce others ("Here are
    the key points:"), are no points. An answer of one line without a bullet is a point for each sentence.
    """
    lines = [line for line in answer.splitlines() if _NOT_WORDS.sub("", line)]
    if len(lines) == 1 and not _BULLET.match(lines[0]):
        lines = _SENTENCE_END.split(lines[0].strip())
    points: list[tuple[str, str]] = []
    before = ""  # the line before, if a quotation may follow it
    for number, line in enumerate(lines):
        point = _BULLET.sub("", line).strip()
        own = _BULLET.match(line) is not None and _indent(line) <= _indent(before)
        if before and not own and _ONLY_QUOTED.match(point):
            said = _BULLET.sub("", before).strip()
            point = f"{said} {point}"
            if points and points[-1][0] == said:
                points.pop()
        quotations = [next(filter(None, match.groups())) for match in _QUOTED.finditer(point)]
        before = "" if quotations else line
        announces = point.endswith(":") and number + 1 < len(lines)
        if point and not announces:
            points.append((point, (max(quotations, key=len) if quotations else point).strip()))
    return points


def with_key_points(
    answers: Sequence[dict[str, Any]], summary_prompts: int, document: Path
) -> list[dict[str, Any]]:
    """The answers; those to the first `summary_prompts` prompts with their key points and their places.

    A point that repeats an earlier one, of the same answer or an earlier prompt's, is left out.
    """
    with document.open(encoding="utf-8", errors="replace", newline="") as file:
        text = DocumentText(file.read())
    seen: set[str] = set()
    first = [
        {**answer, "points": [_placed(text, *point) for point in _new(answer["text"], seen)]}
        for answer in answers[:summary_prompts]
    ]
    return [*first, *answers[summary_prompts:]]


def _placed(text: DocumentText, point: str, quote: str) -> dict[str, Any]:
    place = text.place(quote)
    _, _, labelled = point.partition(": ")  # as in "Fee: the fee is raised."
    if place["match"] is None and quote == point and labelled:
        without = text.place(labelled.strip())
        if without["match"] is not None:
            quote, place = labelled.strip(), without
    return {"text": point, "quote": quote, **place}


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _new(answer: str, seen: set[str]) -> list[tuple[str, str]]:
    """The points of an answer that are not in `seen`, to which they are added."""
    found = []
    for point, quote in key_points_of(answer):
        words = _NOT_WORDS.sub(" ", point).casefold().strip()
        if words not in seen:
            seen.add(words)
            found.append((point, quote))
    return found
