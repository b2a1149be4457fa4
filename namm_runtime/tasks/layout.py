"""Lay out a story in filler: pieces of text with roles, measured in tokens."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from namm_runtime.tasks.documents import FillerKind, filler_pieces
from namm_runtime.tasks.families import FAMILIES
from namm_runtime.tasks.story import Role, Statement, Story
from namm_runtime.tasks.words import Split

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Texts to token ids, one list each, without special tokens."""

FLAVOURS: tuple[FillerKind, ...] = ("contract", "invoice", "minutes", "stdlib")

_TOKENS_PER_STATEMENT = 11
_SHRINK = 0.9


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a document with its role and token ids."""

    role: Role
    text: str
    ids: tuple[int, ...]


def write_story(
    family: str, split: Split, rng: random.Random, room: int, encode: Encode, share: float | None = None
) -> tuple[Story, list[list[Piece]], int]:
    """Write a story whose statements take at most `share` of `room` tokens, by default the family's share.

    Returns the story, the lines of its header and body as pieces, and their number of tokens. A story has at
    least one relevant statement, even if that exceeds the share.
    """
    seed = rng.random()
    kind = FAMILIES[family]
    wanted = (kind.share if share is None else share) * room
    n = max(1, int(wanted / _TOKENS_PER_STATEMENT))
    while True:
        story = kind.write(random.Random(f"{family}:{seed}"), split, n)
        lines = _encoded((*story.header, *story.body), encode)
        tokens = sum(len(piece.ids) for line in lines for piece in line)
        if tokens <= wanted or n == 1:
            return story, lines, tokens
        n = max(1, int(n * max(0.5, min(_SHRINK, wanted / tokens))))


def lay_out(
    story: Story,
    lines: list[list[Piece]],
    room: int,
    encode: Encode,
    rng: random.Random,
    split: Split,
    filler: FillerKind,
    cut: bool = False,
) -> list[Piece]:
    """Spread a story's lines over `room` tokens of filler, in order and after the header.

    With `cut`, the last piece of filler is cut so that the filler has exactly `room` tokens; otherwise filler
    ends before the first piece that does not fit.
    """
    fill = _filler(encode, room, rng, split, filler, cut)
    body = lines[len(story.header) :]
    places = sorted(rng.randint(0, len(fill)) for _ in body)
    laid = [piece for line in lines[: len(story.header)] for piece in line]
    done = 0
    for place, line in zip(places, body, strict=True):
        laid += [*fill[done:place], *line]
        done = place
    return laid + fill[done:]


def _filler(
    encode: Encode, room: int, rng: random.Random, split: Split, kind: FillerKind, cut: bool
) -> list[Piece]:
    pieces: list[Piece] = []
    source = filler_pieces(kind, rng, split)
    while room > 0:
        texts = [next(source) for _ in range(1 + room // 64)]
        for text, ids in zip(texts, encode(texts), strict=True):
            if len(ids) > room and not cut:
                return pieces
            if room > 0:
                pieces.append(Piece(Role.FILLER, text, tuple(ids[:room])))
                room -= len(pieces[-1].ids)
    return pieces


def _encoded(statements: Sequence[Statement], encode: Encode) -> list[list[Piece]]:
    parts = [part for statement in statements for part in statement]
    ids = iter(encode([text for _, text in parts]))
    return [[Piece(role, text, tuple(next(ids))) for role, text in statement] for statement in statements]
