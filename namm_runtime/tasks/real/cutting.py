"""Cut a text so that a document has an exact number of tokens and the text goes on behind it."""

from dataclasses import dataclass
from typing import Any

from namm_runtime.model.encoding import encode

_TRIES = 400


@dataclass(frozen=True)
class Cut:
    """A document and the text that follows it.

    Attributes:
        text: has the requested number of tokens, alone and together with what follows.
        following: its tokens do not depend on whether it is encoded with the document.
        removed: characters removed from the beginning.
    """

    text: str
    following: str
    removed: int


def cut(text: str, tokens: int, following: int, tokenizer: Any, removable: int) -> Cut | None:
    """Cut `text` after exactly `tokens` tokens, or return None where that is not possible.

    A tokenizer may merge what is left and right of a cut. So words are removed from the beginning of the text
    until it can be cut between two words.

    Args:
        following: number of tokens that follow the document.
        removable: number of characters at the beginning of the text that may be removed.
    """
    begin = 0
    for _ in range(_TRIES):
        found = _cut_at(text[begin:], tokens, following, tokenizer)
        if found is not None:
            return Cut(*found, begin)
        begin = _next_word(text, begin)
        if begin >= removable:
            return None
    return None


def _cut_at(text: str, tokens: int, following: int, tokenizer: Any) -> tuple[str, str] | None:
    ids, starts = _encoded(text, tokenizer)
    if len(ids) <= tokens + following:
        return None
    begin, end = starts[tokens], starts[tokens + following]
    if not (text[begin - 1].isalnum() or text[begin - 1] in ".,;:") or not text[begin : begin + 2].strip():
        return None
    document, rest = text[:begin], text[begin:end]
    if _encoded(document, tokenizer)[0] != ids[:tokens]:
        return None
    if _encoded(rest, tokenizer)[0] != ids[tokens : tokens + following]:
        return None
    return document, rest


def _encoded(text: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    encoding = encode(tokenizer, text, return_offsets_mapping=True, return_attention_mask=False)
    return encoding["input_ids"], [start for start, _ in encoding["offset_mapping"]]


def _next_word(text: str, begin: int) -> int:
    """The beginning of the next word; white space between them is skipped."""
    while begin < len(text) and not text[begin].isspace():
        begin += 1
    while begin < len(text) and text[begin].isspace():
        begin += 1
    return begin
