"""Extracts the key points of a summary and locates their quotations in the document by exact search."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What a model writes before a point: a dash, an asterisk, a bullet or a number.
_BULLET = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}[.):])\s+")
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»')
_PAGE_END = "\f"


class DocumentText:
    """A document's text, in which passages are located; lines and pages are counted from 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line_ends = [found.start() for found in re.finditer("\n", text)]
        self._page_ends = [found.start() for found in re.finditer(_PAGE_END, text)]

    def place(self, quote: str) -> dict[str, Any]:
        """The first exact occurrence of a passage: offsets in characters, nulls if there is none."""
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


def key_points_of(answer: str) -> list[tuple[str, str]]:
    """The points of an answer, one a line, each with the passage to locate.

    That is the point's longest quotation, or the whole point if it quotes nothing.
    """
    found = []
    for line in answer.splitlines():
        point = _BULLET.sub("", line).strip()
        if not point:
            continue
        quotations = [next(filter(None, match.groups())) for match in _QUOTED.finditer(point)]
        quote = max(quotations, key=len) if quotations else point
        found.append((point, quote.strip()))
    return found


def with_key_points(
    answers: Sequence[dict[str, Any]], summary_prompts: int, document: Path
) -> list[dict[str, Any]]:
    """The answers; those to the first `summary_prompts` prompts with their key points located."""
    with document.open(encoding="utf-8", errors="replace", newline="") as file:
        text = DocumentText(file.read())
    first = [
        {
            **answer,
            "points": [
                {"text": point, "quote": quote, **_located(text, quote)}
                for point, quote in key_points_of(answer["text"])
            ],
        }
        for answer in answers[:summary_prompts]
    ]
    return [*first, *answers[summary_prompts:]]


def _located(text: DocumentText, quote: str) -> dict[str, Any]:
    """The place of a quotation, without its final full stop or comma if it is only found without."""
    place = text.place(quote)
    if place["located"] or not quote.endswith((".", ",")):
        return place
    return text.place(quote[:-1])
