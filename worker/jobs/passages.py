"""Finds a quotation in its document: word for word, or else the passage that is nearest to it."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Any

from rapidfuzz import fuzz

NEAR = 0.85  # the similarity from which a passage counts as near; paraphrases rarely reach 0.75
SHORTEST_NEAR = 16  # characters; almost anything is similar to something shorter
EXACT, NEARBY = "exact", "near"

_PAGE_END = "\f"
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
# Characters that a model writes differently than the document, one for one so that offsets stay.
_ALIKE = str.maketrans("\n\r\t\f\v\u00a0\u202f“”„«»‘’–—‑", '       """""\'\'---')


class DocumentText:
    """A document's text, in which passages are located; lines and pages are counted from 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line_ends = [found.start() for found in re.finditer("\n", text)]
        self._page_ends = [found.start() for found in re.finditer(_PAGE_END, text)]
        self._plain: str | None = None

    def place(self, quote: str) -> dict[str, Any]:
        """Where a passage is: offsets in characters, line and page; nulls if it is nowhere.

        `match` is `exact` for the same words in the same order, whatever white space is between them: then it
        is the first occurrence. It is `near` for the most similar passage, if that has at least the
        similarity NEAR and every number of the quotation. Only exact matches are `located`.
        """
        found = self._exact(quote)
        if found is None and quote.endswith((".", ",")):
            found = self._exact(quote[:-1])
        if found is not None:
            start, end, occurrences = found
            return self._at(start, end) | {
                "located": True,
                "match": EXACT,
                "similarity": 1.0,
                "occurrences": occurrences,
            }
        near = self._near(quote)
        if near is not None:
            start, end, similarity = near
            return self._at(start, end) | {
                "located": False,
                "match": NEARBY,
                "similarity": similarity,
                "occurrences": 0,
            }
        nowhere = dict.fromkeys(("start", "end", "line", "page", "match", "similarity"))
        return {"located": False, **nowhere, "occurrences": 0}

    def _at(self, start: int, end: int) -> dict[str, Any]:
        return {
            "start": start,
            "end": end,
            "line": bisect_right(self._line_ends, start - 1) + 1,
            "page": bisect_right(self._page_ends, start - 1) + 1 if self._page_ends else None,
        }

    def _exact(self, quote: str) -> tuple[int, int, int] | None:
        """Start and end of the first occurrence, and how many there are."""
        words = quote.split()
        if not words:
            return None
        found = list(re.finditer(r"\s+".join(map(re.escape, words)), self._text))
        return (found[0].start(), found[0].end(), len(found)) if found else None

    def _near(self, quote: str) -> tuple[int, int, float] | None:
        """Start and end of the most similar passage, and its similarity, if that is enough."""
        wanted = _plain(" ".join(quote.split()))
        if len(wanted) < SHORTEST_NEAR:
            return None
        if self._plain is None:
            self._plain = _plain(self._text)
        if len(wanted) > len(self._plain):
            return None
        found = fuzz.partial_ratio_alignment(wanted, self._plain, score_cutoff=100 * NEAR)
        if found is None:
            return None
        start, end = self._whole_words(found.dest_start, found.dest_end)
        passage = self._plain[start:end]
        similarity = fuzz.ratio(wanted, passage) / 100
        if similarity < NEAR or not set(_NUMBER.findall(wanted)) <= set(_NUMBER.findall(passage)):
            return None
        return start, end, round(similarity, 2)

    def _whole_words(self, start: int, end: int) -> tuple[int, int]:
        """The passage, with the words that it cuts off completed and without white space around it."""
        text = self._text
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        while start > 0 and text[start - 1].isalnum() and text[start].isalnum():
            start -= 1
        while end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
            end += 1
        return start, end


def _plain(text: str) -> str:
    """The text in lower case, with usual white space, quotation marks and dashes; of the same length."""
    alike = text.translate(_ALIKE)
    lower = alike.lower()
    return lower if len(lower) == len(alike) else alike
