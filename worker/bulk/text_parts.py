"""Documents in parts, and parts' answers as a document: what map-reduce and digests are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

# A part ends at the best of these near its end: a page, a paragraph, a line, a sentence, a word.
_BREAKS = ("\f", "\n\n", "\n", ". ", " ")
_NEAR = 0.5  # of a part, from its end


def split(file: IO[str], characters: int) -> Iterator[str]:
    """Parts of at most so many characters that together are the text, but for blank ones.

    No more than one part is in memory.
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
    """Answers as a document, under the name of what they are about.

    A prompt that an answer completes, such as a question, stands before it; an instruction does not.
    """
    texts = ("\n".join([name, *(_line(answer) for answer in answers)]) for name, answers in named)
    return "\n\n".join(texts) + "\n"


def _line(answer: dict[str, Any]) -> str:
    prompt, text = answer["prompt"].strip(), answer["text"].strip()
    return f"{prompt} {text}" if prompt.endswith((":", "?")) else text
