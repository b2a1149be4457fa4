"""Documents: facts where they are said to be, any length, the same again for the same seed."""

import random
import time
from itertools import islice

import pytest

from namm_runtime.tasks import FillerKind, make_document
from namm_runtime.tasks.documents import filler_pieces

FILLERS: tuple[FillerKind, ...] = ("business", "stdlib", "mixed")


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize("n_chars", [0, 1, 500, 20_000, 300_000])
def test_facts_stand_at_their_offsets(filler: FillerKind, n_chars: int) -> None:
    document = make_document(n_chars, 12, seed=3, split="test", filler=filler)
    assert len(document.facts) == 12
    for planted in document.facts:
        end = planted.offset + len(planted.fact.sentence)
        assert document.text[planted.offset : end] == planted.fact.sentence
        assert planted.depth == pytest.approx(planted.offset / len(document.text))
    offsets = [planted.offset for planted in document.facts]
    assert offsets == sorted(offsets)


@pytest.mark.parametrize("filler", FILLERS)
def test_length_is_about_what_was_asked(filler: FillerKind) -> None:
    for n_chars in (2_000, 50_000):
        length = len(make_document(n_chars, 5, seed=1, filler=filler).text)
        assert n_chars <= length < n_chars + 6_000


def test_an_empty_document_is_possible() -> None:
    document = make_document(0, 0, seed=0)
    assert document.text == ""
    assert document.facts == ()


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="n_chars"):
        make_document(-1, 0, seed=0)
    with pytest.raises(ValueError, match="n_facts"):
        make_document(10, -1, seed=0)


def test_an_unknown_filler_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of"):
        make_document(10, 0, seed=0, filler="poetry")  # type: ignore[arg-type]


@pytest.mark.parametrize("filler", FILLERS)
def test_the_seed_decides_everything(filler: FillerKind) -> None:
    once = make_document(30_000, 8, seed=5, filler=filler)
    assert once == make_document(30_000, 8, seed=5, filler=filler)
    assert once.text != make_document(30_000, 8, seed=6, filler=filler).text


def test_facts_spread_over_the_whole_document() -> None:
    depths = [planted.depth for planted in make_document(400_000, 200, seed=2).facts]
    quarters = [sum(low <= depth < low + 0.25 for depth in depths) for low in (0, 0.25, 0.5, 0.75)]
    assert min(quarters) > 25


def test_a_four_megabyte_document_takes_seconds() -> None:
    start = time.monotonic()
    document = make_document(4_000_000, 30, seed=1, filler="mixed")
    assert len(document.text) >= 4_000_000
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("filler", FILLERS)
def test_filler_pieces_join_at_line_breaks(filler: FillerKind) -> None:
    for piece in islice(filler_pieces(filler, random.Random(1), "test"), 500):
        assert piece.startswith("\n")
        assert piece[-1].isprintable()
        assert not piece[-1].isspace()
