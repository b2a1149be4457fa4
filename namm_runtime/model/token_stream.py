"""A document as a stream of tokens, in constant memory, equal to tokenising it at once.

A tokenizer's merges depend only on nearby text. So overlapping windows are tokenised separately and joined
where they agree: at a token boundary in the overlap after which both have the same tokens. Text without such
a place for a quarter of a million characters is cut at that point.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from namm_runtime.errors import Refusal
from namm_runtime.model.encoding import encode

WINDOW = 1 << 15  # characters tokenised at once
OVERLAP = 1 << 10  # characters two windows share
AGREE = 8  # tokens that must be the same after a joint
LONGEST = 1 << 18  # characters after which text without a joint is cut


@dataclass(frozen=True)
class Place:
    """A position in a stream: resuming tokenises the window at `byte` and skips its first `tokens` tokens."""

    byte: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Piece:
    """Tokens of one window.

    Attributes:
        ids: token ids.
        starts: character offset of each token within the window's text.
        text: the window's text.
        byte: offset of the window in the file.
        first: index of the first of them among the window's tokens.
    """

    ids: list[int]
    starts: list[int]
    text: str
    byte: int
    first: int = 0

    def byte_offset(self, token: int) -> int:
        """Offset in the file of the token's first byte (of its first character, if the token splits one)."""
        return self.byte + len(self.text[: self.starts[token]].encode())


class TokenStream:
    """Iterates over the pieces of a UTF-8 file.

    Args:
        path: the document.
        tokenizer: a fast Hugging Face tokenizer.
        place: where to resume, as `Place` of an earlier stream of the same file.
    """

    def __init__(self, path: Path, tokenizer: Any, place: Place | None = None) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise Refusal("tokenizer_unsupported", "the model's tokenizer has no fast version with offsets")
        self.path, self.tokenizer, self.place = path, tokenizer, place or Place()

    def __iter__(self) -> Iterator[Piece]:
        """Yield pieces in order.

        Raises:
            Refusal: `document_not_text` for bytes that are not UTF-8, with their offset.
        """
        with self.path.open("rb") as file:
            reader = _Reader(file, self.place.byte)
            text, byte = reader.read(WINDOW + OVERLAP), self.place.byte
            ids, starts = self._encode(text)
            skip = self.place.tokens
            while len(ids) < skip and (more := reader.read(len(text))):  # the window had been extended
                text += more
                ids, starts = self._encode(text)
            while True:
                # Doubles the window if no joint is found, so that the total cost stays linear.
                following = reader.read(max(WINDOW, len(text) - OVERLAP))
                if not following:
                    yield Piece(ids[skip:], starts[skip:], text, byte, skip)
                    return
                cut = max(0, len(text) - OVERLAP)
                next_text = text[cut:] + following
                next_ids, next_starts = self._encode(next_text)
                joint = _joint(ids, starts, next_ids, next_starts, cut)
                if joint is None and len(text) < LONGEST:
                    text += following
                    ids, starts = self._encode(text)
                    continue
                if joint is None:
                    yield Piece(ids[skip:], starts[skip:], text, byte, skip)
                    byte += len(text.encode())
                    text, skip = following, 0
                    ids, starts = self._encode(text)
                    continue
                here, there = joint
                yield Piece(ids[skip:here], starts[skip:here], text, byte, skip)
                byte += len(text[:cut].encode())
                text, ids, starts, skip = next_text, next_ids, next_starts, there

    def _encode(self, text: str) -> tuple[list[int], list[int]]:
        encoding = encode(self.tokenizer, text, return_offsets_mapping=True, return_attention_mask=False)
        return encoding["input_ids"], [start for start, _ in encoding["offset_mapping"]]


def counted(path: Path, tokenizer: Any) -> Iterator[int]:
    """Yield the number of tokens so far after every piece. Raises as `TokenStream` does."""
    tokens = 0
    for piece in TokenStream(path, tokenizer):
        tokens += len(piece.ids)
        yield tokens


class _Reader:
    """Reads a given number of characters from a UTF-8 file."""

    def __init__(self, file: BinaryIO, byte: int) -> None:
        file.seek(byte)
        self.file, self.byte = file, byte
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def read(self, characters: int) -> str:
        text = ""
        while len(text) < characters:
            block = self.file.read(characters - len(text))
            try:
                text += self.decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise Refusal(
                    "document_not_text",
                    f"the document is not UTF-8 text: {error.reason} near byte {self.byte}",
                ) from None
            self.byte += len(block)
            if not block:
                break
        if "\0" in text:
            raise Refusal("document_not_text", f"the document contains a NUL byte before byte {self.byte}")
        return text


def _joint(
    ids: list[int], starts: list[int], next_ids: list[int], next_starts: list[int], cut: int
) -> tuple[int, int] | None:
    """Token indices (in this window, in the next) from which both tokenisations agree."""
    where = {start + cut: index for index, start in reversed(list(enumerate(next_starts)))}
    middle = cut + (starts[-1] - cut) // 2 if starts else cut
    for here in range(len(ids) - AGREE - 1, 0, -1):
        if starts[here] <= middle and starts[here] > cut + OVERLAP // 8:
            there = where.get(starts[here])
            fresh = starts[here] != starts[here - 1]  # not inside a character that took several tokens
            if fresh and there is not None and ids[here : here + AGREE] == next_ids[there : there + AGREE]:
                return here, there
        elif starts[here] <= cut:
            return None
    return None
