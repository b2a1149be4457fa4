"""Documents of every family and any length, with their questions."""

import random
from collections.abc import Iterator
from typing import Any

from namm_runtime.tasks import families
from namm_runtime.tasks.documents import FillerKind
from namm_runtime.tasks.item import Item
from namm_runtime.tasks.layout import FLAVOURS, Encode, Piece, lay_out, write_story
from namm_runtime.tasks.story import Question
from namm_runtime.tasks.words import Split

FAMILIES: tuple[str, ...] = tuple(families.FAMILIES)

_TRIES = 6
_CLOSE = 0.96  # acceptable share of the requested length


def documents(
    family: str, split: Split, tokens: int, count: int, seed: int, tokenizer: Any
) -> Iterator[tuple[str, list[Item]]]:
    """Yield `count` documents of about `tokens` tokens, never more, each with its questions in random order.

    The same arguments give the same documents on the same Python installation. Splits share no names,
    numbers, sentences or source files.

    Args:
        tokenizer: a Hugging Face tokenizer, or one of the `tokenizers` package.

    Raises:
        KeyError: for an unknown family.
        ValueError: if `tokens` is too small for one statement.
    """
    for pieces, questions in laid_out(family, split, tokens, count, seed, encoder(tokenizer)):
        text = "".join(piece.text for piece in pieces)
        yield text, [Item(family, text, q.prompt.strip(), q.answers, q.metric) for q in questions]


def laid_out(
    family: str, split: Split, tokens: int, count: int, seed: int, encode: Encode
) -> Iterator[tuple[list[Piece], tuple[Question, ...]]]:
    """The same documents as pieces with roles."""
    for number in range(count):
        rng = random.Random(f"{family}:{split}:{tokens}:{seed}:{number}")
        filler = FLAVOURS[rng.randrange(len(FLAVOURS))]
        yield _longest(family, split, tokens, rng, encode, filler)


def _longest(
    family: str, split: Split, tokens: int, rng: random.Random, encode: Encode, filler: FillerKind
) -> tuple[list[Piece], tuple[Question, ...]]:
    """The longest document of at most `tokens` tokens found in a few tries."""
    room = tokens
    best: tuple[int, list[Piece], tuple[Question, ...]] | None = None
    for _ in range(_TRIES):
        story, lines, used = write_story(family, split, rng, room, encode)
        if used > room:
            break
        pieces = lay_out(story, lines, room - used, encode, rng, split, filler)
        # Other tokenizers may tokenise the joined text differently from the pieces.
        have = len(encode(["".join(piece.text for piece in pieces)])[0])
        if have <= tokens and (best is None or have > best[0]):
            best = have, pieces, story.questions
        if best and best[0] >= _CLOSE * tokens:
            break
        room += tokens - have if have > tokens else int(0.9 * (tokens - have))
    if best is None:
        raise ValueError(f"{tokens} tokens are too few for a document of the family {family}")
    return best[1], best[2]


def encoder(tokenizer: Any) -> Encode:
    """A function from texts to token ids without special tokens."""
    core = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(core, "encode_batch"):
        return lambda texts: [e.ids for e in core.encode_batch(list(texts), add_special_tokens=False)]

    def encode(texts: Any) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    return encode
