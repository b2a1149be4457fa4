"""The three splits share no id, value, name or template."""

import random
import re
from itertools import combinations

import pytest

from namm_runtime.tasks.facts import NAME_FIELDS, sample_facts
from namm_runtime.tasks.filler import _TEMPLATES, business_pieces, ordinary_files
from namm_runtime.tasks.words import (
    HELD_OUT_NAMES,
    NAMES,
    SPLITS,
    Split,
    compose_name,
    sample_number,
    split_of_number,
)

PAIRS = list(combinations(SPLITS, 2))


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_lists_are_disjoint(one: Split, other: Split) -> None:
    assert not set(NAMES[one]) & set(NAMES[other])
    assert not set(_TEMPLATES[one]) & set(_TEMPLATES[other])
    assert not set(ordinary_files(one)) & set(ordinary_files(other))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("digits", [3, 4, 5, 6])
def test_numbers_have_their_digits_and_stay_in_their_split(split: Split, digits: int) -> None:
    rng = random.Random(1)
    numbers = [sample_number(rng, split, digits) for _ in range(3000)]
    assert {len(str(number)) for number in numbers} == {digits}
    assert {split_of_number(number) for number in numbers} == {split}


def test_every_number_of_a_split_can_be_drawn() -> None:
    rng = random.Random(1)
    drawn = {sample_number(rng, "test", 3) for _ in range(10_000)}
    assert drawn == {number for number in range(100, 1000) if split_of_number(number) == "test"}


@pytest.mark.parametrize("split", SPLITS)
def test_facts_use_only_their_split(split: Split) -> None:
    for fact in sample_facts(2000, random.Random(2), split):
        assert split_of_number(fact.number) == split
        if fact.field not in NAME_FIELDS:
            assert split_of_number(int(fact.answer)) == split
        elif split == "train":
            assert fact.answer not in HELD_OUT_NAMES
        else:
            assert fact.answer in NAMES[split]


@pytest.mark.parametrize("split", SPLITS)
def test_office_prose_uses_only_its_split(split: Split) -> None:
    pieces = business_pieces(random.Random(3), split)
    text = "".join(next(pieces) for _ in range(2000))
    assert {split_of_number(int(number)) for number in re.findall(r"\d+", text)} == {split}
    foreign = {name for other in SPLITS if other != split for name in NAMES[other]}
    if split == "train":
        foreign = set(HELD_OUT_NAMES)
    assert not foreign & set(re.findall(r"[A-Za-z]+", text))


def test_invented_names_are_never_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compose_name(random.Random(4))
    monkeypatch.setattr("namm_runtime.tasks.words.HELD_OUT_NAMES", {first})
    assert compose_name(random.Random(4)) != first
