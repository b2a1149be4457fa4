"""Questions about what stands in the text itself: completed sentences and quoted passages."""

import random
import re
from dataclasses import dataclass

from namm_runtime.tasks.item import Forced, Item

# A number of two digits or more, a name, or a term: what is seldom known without reading.
_VALUE = re.compile(r"(?<![\w.-])(?:\d{2,6}(?:\.\d+)?|[A-Z][a-z]{4,}|[a-z]+_[a-z_]+)(?![\w-])")
_LEAD_WORDS = (8, 16)
_QUOTE_LEAD_WORDS = 12
_QUOTE_CHARACTERS = 140


@dataclass(frozen=True)
class Standing:
    """An item and the part of the text that it needs, in characters."""

    item: Item
    span: tuple[int, int]


def sentences_to_complete(
    text: str, number: int, rng: random.Random, taken: list[tuple[int, int]]
) -> list[Standing]:
    """Sentences up to a number, a name or a term that occurs nowhere else in the text.

    Args:
        taken: parts of the text not to use, such as planted sentences.
    """
    found: list[Standing] = []
    candidates = [
        match
        for match in _VALUE.finditer(text)
        if text.count(match.group()) == 1 and re.fullmatch(r"[\w,] ", text[match.start() - 2 : match.start()])
    ]
    rng.shuffle(candidates)
    for match in candidates:
        if len(found) == number:
            break
        lead = _lead(text, match.start(), _LEAD_WORDS)
        if lead is None:
            continue
        begin, words = lead
        if text.count(words) > 1 or _overlaps((begin, match.end()), taken):
            continue
        gold = text[begin + len(words) : match.end()]
        forced = Forced(words, gold)
        item = Item(
            "text", "", "Complete a sentence of the document.", (match.group(),), "recall", forced, False
        )
        found.append(Standing(item, (begin, match.end())))
        taken.append((begin, match.end()))
    return found


def quotes(text: str, number: int, rng: random.Random, taken: list[tuple[int, int]]) -> list[Standing]:
    """Passages at random depths. The answer turn opens with a passage's first words."""
    found: list[Standing] = []
    starts = [match.start() for match in re.finditer(r"(?<=\s)\S", text)]
    for _ in range(200):
        if len(found) == number:
            break
        begin = rng.choice(starts)
        words = re.match(rf"(?:\S+[ \n]+){{{_QUOTE_LEAD_WORDS - 1}}}\S+", text[begin : begin + 400])
        if words is None:
            continue
        end = text.find(" ", begin + words.end() + _QUOTE_CHARACTERS)
        if end < 0 or end > begin + 600 or _overlaps((begin, end), taken) or text.count(words.group()) > 1:
            continue
        forced = Forced(words.group(), text[begin + words.end() : end], by_token=True)
        item = Item("quote", "", "Quote a passage of the document.", (), "exact", forced, False)
        found.append(Standing(item, (begin, end)))
        taken.append((begin, end))
    return found


def _lead(text: str, end: int, words: tuple[int, int]) -> tuple[int, str] | None:
    """Where the last words of the sentence before `end` begin, and those words; None if there are too few."""
    paragraph = text.rfind("\n\n", 0, end) + 2
    window = text[max(paragraph if paragraph > 1 else 0, end - 200) : end]
    starts = [match.start() for match in re.finditer(r"(?:(?<=\s)|^)\S", window)]
    starts = starts[-words[1] :]
    stop = max((match.end() for match in re.finditer(r"[.!?]\s+(?=[A-Z])", window)), default=0)
    starts = [start for start in starts if start >= stop]
    if len(starts) < words[0]:
        return None
    lead = window[starts[0] :].rstrip()
    return end - len(window) + starts[0], lead


def _overlaps(span: tuple[int, int], taken: list[tuple[int, int]]) -> bool:
    return any(span[0] < end and begin < span[1] for begin, end in taken)
