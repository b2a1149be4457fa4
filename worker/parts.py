"""Documents in parts, and parts' answers as a document: what map-reduce and digests are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# A part ends at the best of these near its end: a page, a paragraph, a line, a sentence, a word.
_BREAKS = ("\f", "\n\n", "\n", ". ", " ")
_NEAR = 0.5  # of a part, from its end


def split(text: str, characters: int) -> list[str]:
    """Parts of at most so many characters that together are the text."""
    found, start = list[str](), 0
    while len(text) - start > characters:
        end = start + characters
        earliest = start + int(characters * _NEAR)
        for mark in _BREAKS:
            place = text.rfind(mark, earliest, end)
            if place >= 0:
                end = place + len(mark)
                break
        found.append(text[start:end])
        start = end
    return [*found, text[start:]]


def joined(named: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> str:
    """Answers as a document, under the name of what they are about.

    A prompt that an answer completes, such as a question, stands before it; an instruction does not.
    """
    return (
        "\n\n".join("\n".join([name, *(_line(answer) for answer in answers)]) for name, answers in named)
        + "\n"
    )


def _line(answer: dict[str, Any]) -> str:
    prompt, text = answer["prompt"].strip(), answer["text"].strip()
    return f"{prompt} {text}" if prompt.endswith((":", "?")) else text
