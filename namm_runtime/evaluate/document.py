"""A document of a suite, with the questions about it."""

import hashlib
from dataclasses import dataclass

from namm_runtime.tasks.item import Item


@dataclass(frozen=True)
class Document:
    """A text and the questions about it.

    Attributes:
        length: the suite's length in tokens, None for documents from a file.
        max_output_tokens: per answer.
        following: text that goes on after the document, to measure the loss on it.
    """

    text: str
    items: tuple[Item, ...]
    length: int | None
    max_output_tokens: int
    following: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted({item.task for item in self.items}))
