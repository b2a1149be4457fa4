"""Splits a document into parts and joins answers into a document, for map-reduce and digests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

# A part ends at the first of these that occurs near its end: page, paragraph, line, sentence, word.
_BREAKS = ("\f", "\n\n", "\n", ". ", " ")
_NEAR = 0.5  # share of a part, counted from its end


def split(file: IO[str], characters: int) -> Iterator[str]:
    """Yields the text in parts of at most `characters`; blank parts are left out.

    Holds one part in memory at a time.
    """
    held = ""
    while True:
        held += file.read(characters + 1 - len(held))
        end = _end(held, characters) if len(held) > characters else len(held)
        if held[:end].strip():
            yield held[:end]
        if len(held) <= characters:
            return
        held = held[end:]


def _end(text: str, characters: int) -> int:
    for mark in _BREAKS:
        place = text.rfind(mark, int(characters * _NEAR), characters)
        if place >= 0:
            return place + len(mark) if place + len(mark) <= characters else characters
    return characters


def joined(named: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> str:
    """One document of all answers, each group under the name of the document it is about.

    A prompt that the answer completes, such as a question, is repeated before it; an instruction is not.
    """
    texts = ("\n".join([name, *(_line(answer) for answer in answers)]) for name, answers in named)
    return "\n\n".join(texts) + "\n"


def _line(answer: dict[str, Any]) -> str:
    prompt, text = answer["prompt"].strip(), answer["text"].strip()
    return f"{prompt} {text}" if prompt.endswith((":", "?")) else text
