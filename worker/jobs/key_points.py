"""Extracts the key points of a summary from what a model wrote, and finds their places in the document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worker.jobs.passages import DocumentText

# What a model writes before a point: a dash, an asterisk, a bullet or a number, perhaps in bold.
_BULLET = re.compile(
    r"^\s*(?:#+\s+)?(?:\*\*|__)?"
    r"(?:[-*•–]\s+|\(?\d{1,3}[.):](?:\*\*|__)?\s+|(?:key )?(?:point|sentence) \d{1,3}(?:\*\*|__)?[.):](?:\*\*|__)?\s+)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»')
_ONLY_QUOTED = re.compile(rf"^(?:{_QUOTED.pattern})[.,;]?$")
_EMPHASIS = re.compile(r"\*\*|__")
_NOT_WORDS = re.compile(r"[\W_]+")


def key_points_of(answer: str) -> list[tuple[str, str]]:
    """The points of an answer, one a line, each with the passage to locate.

    That is the point's longest quotation, or the whole point if it quotes nothing. A quotation on a line of
    its own belongs to the line before. Lines without words, and those that only announce others ("Here are
    the key points:"), are no points.
    """
    lines = [line.strip() for line in answer.splitlines() if _NOT_WORDS.sub("", line)]
    points: list[tuple[str, str]] = []
    open_point = ""  # a line whose quotation may follow
    for number, line in enumerate(lines):
        point = _without_bullet(line)
        if not point:
            continue
        follows = _ONLY_QUOTED.match(point) and open_point
        if follows:
            point = f"{open_point} {point}"
            if points and points[-1][0] == open_point:
                points.pop()
        open_point = ""
        quotations = [next(filter(None, match.groups())) for match in _QUOTED.finditer(point)]
        if not quotations:
            open_point = point
            if point.endswith(":") and number + 1 < len(lines):
                continue
        quote = max(quotations, key=len) if quotations else point
        points.append((point, quote.strip()))
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
    return {"text": point, "quote": quote, **text.place(quote)}


def _new(answer: str, seen: set[str]) -> list[tuple[str, str]]:
    """The points of an answer that are not in `seen`, to which they are added."""
    found = []
    for point, quote in key_points_of(answer):
        words = _NOT_WORDS.sub(" ", point).casefold().strip()
        if words not in seen:
            seen.add(words)
            found.append((point, quote))
    return found


def _without_bullet(line: str) -> str:
    """The line without its bullet or number, and without the marks of bold type."""
    rest = _BULLET.sub("", line)
    return _EMPHASIS.sub("", rest).strip()
