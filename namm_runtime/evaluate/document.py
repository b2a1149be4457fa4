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
        group: what its suite calls documents of its sort; None if that is their tasks.
    """

    text: str
    items: tuple[Item, ...]
    length: int | None
    max_output_tokens: int
    following: str = ""
    group: str | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted({item.task for item in self.items}))

    @property
    def stratum(self) -> tuple[object, ...]:
        """Equal for documents of the same sort and length, which are limited and resampled together."""
        return (self.group or self.tasks, self.length)
