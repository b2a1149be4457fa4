"""Documents of any length with facts at known offsets."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from namm_runtime.tasks.facts import Fact, sample_facts
from namm_runtime.tasks.filler import business_pieces, ordinary_pieces
from namm_runtime.tasks.words import Split

FillerKind = Literal["business", "stdlib", "mixed", "contract", "invoice", "minutes"]
# A mixed document switches between the two kinds after this many pieces.
_MIXED_RUN = (4, 24)


@dataclass(frozen=True, slots=True)
class Planted:
    """A fact and its offset: `text[offset:offset + len(fact.sentence)] == fact.sentence`."""

    fact: Fact
    offset: int  # in characters
    depth: float  # offset / length of the text, 0..1


@dataclass(frozen=True, slots=True)
class Document:
    """A text and the facts in it, in text order."""

    text: str
    facts: tuple[Planted, ...]


def filler_pieces(kind: FillerKind, rng: random.Random, split: Split) -> Iterator[str]:
    """Yield filler of a kind endlessly; pieces start with a line break and end in a visible character."""
    if kind == "business":
        yield from business_pieces(rng, split)
    elif kind == "stdlib":
        yield from ordinary_pieces(rng, split)
    elif kind in ("contract", "invoice", "minutes"):
        yield from business_pieces(rng, split, kind)
    elif kind == "mixed":
        sources = (business_pieces(rng, split), ordinary_pieces(rng, split))
        while True:
            for source in sources:
                for _ in range(rng.randint(*_MIXED_RUN)):
                    yield next(source)
    else:
        raise ValueError(f"unknown filler {kind!r}: expected one of {get_args(FillerKind)}")


def make_document(
    n_chars: int, n_facts: int, seed: int, split: Split = "test", filler: FillerKind = "business"
) -> Document:
    """Write a document of about `n_chars` characters with `n_facts` facts at random depths.

    The same arguments give the same document on the same Python installation (any installation for business
    filler). The text ends at the first piece boundary at or after `n_chars`, never before its last fact.
    """
    if n_chars < 0 or n_facts < 0:
        raise ValueError(f"a document needs n_chars >= 0 and n_facts >= 0, not {n_chars} and {n_facts}")
    rng = random.Random(f"document:{seed}:{split}:{filler}:{n_chars}:{n_facts}")
    facts = sample_facts(n_facts, rng, split)
    room = max(0, n_chars - sum(len(fact.sentence) for fact in facts))
    # Depths are drawn in filler characters, so that facts are spread evenly whatever their length.
    places = sorted(rng.random() * room for _ in facts)
    pieces = filler_pieces(filler, rng, split)

    parts: list[str] = []
    offsets: list[int] = []
    length = filled = 0
    while filled < room or len(offsets) < n_facts:
        if len(offsets) < n_facts and (filled >= room or places[len(offsets)] <= filled):
            part = facts[len(offsets)].sentence
            offsets.append(length)
        else:
            part = next(pieces)
            filled += len(part)
        parts.append(part)
        length += len(part)
    planted = (Planted(fact, offset, offset / length) for fact, offset in zip(facts, offsets, strict=True))
    return Document("".join(parts), tuple(planted))
