"""Key points of a summary, and where what they quote stands in the document, by exact search only."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What a model writes before a point: a dash, a star, a dot, or a number.
_BULLET = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}[.):])\s+")
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»')
_PAGE_END = "\f"


class Located:
    """A document's text, to look passages up in; lines and pages are counted from 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line_ends = [found.start() for found in re.finditer("\n", text)]
        self._page_ends = [found.start() for found in re.finditer(_PAGE_END, text)]

    def place(self, quote: str) -> dict[str, Any]:
        """Where a passage first stands, word for word: offsets in characters, nulls where it does not."""
        start = self._text.find(quote) if quote else -1
        if start < 0:
            nowhere = dict.fromkeys(("start", "end", "line", "page"))
            return {"located": False, **nowhere, "occurrences": 0}
        return {
            "located": True,
            "start": start,
            "end": start + len(quote),
            "line": bisect_right(self._line_ends, start - 1) + 1,
            "page": bisect_right(self._page_ends, start - 1) + 1 if self._page_ends else None,
            "occurrences": self._text.count(quote),
        }


def points_of(answer: str) -> list[tuple[str, str]]:
    """The points of an answer, a line each, and for each the passage to look for: its longest quotation, or
    where it has none all of it."""
    found = []
    for line in answer.splitlines():
        point = _BULLET.sub("", line).strip()
        if not point:
            continue
        quotations = [next(filter(None, match.groups())) for match in _QUOTED.finditer(point)]
        quote = max(quotations, key=len) if quotations else point
        found.append((point, quote.strip()))
    return found


def with_points(
    answers: Sequence[dict[str, Any]], summary_prompts: int, document: Path
) -> list[dict[str, Any]]:
    """The answers, those to the first `summary_prompts` prompts with their points and where they stand."""
    with document.open(encoding="utf-8", errors="replace", newline="") as file:
        text = Located(file.read())
    first = [
        {
            **answer,
            "points": [
                {"text": point, "quote": quote, **_best(text, quote)}
                for point, quote in points_of(answer["text"])
            ],
        }
        for answer in answers[:summary_prompts]
    ]
    return [*first, *answers[summary_prompts:]]


def _best(text: Located, quote: str) -> dict[str, Any]:
    """The place of a quotation; of one that closes with the quoting sentence's full stop, without it."""
    place = text.place(quote)
    if place["located"] or not quote.endswith((".", ",")):
        return place
    return text.place(quote[:-1])
