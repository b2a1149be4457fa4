"""No split of the real text shares a source file, a wording or a name with another."""

import random
import re
import zlib
from itertools import combinations
from pathlib import Path

import pytest

from namm_runtime.tasks.filler import FILE_CLASSES, ordinary_files
from namm_runtime.tasks.real.planted import plant
from namm_runtime.tasks.real.sources import Shelf, folder_sources, library_sources
from namm_runtime.tasks.real.wordings import NOUNS, attributes
from namm_runtime.tasks.words import NAMES, SPLITS, Split


@pytest.mark.parametrize(("one", "other"), list(combinations(SPLITS, 2)))
def test_splits_share_no_source_file_and_no_wording(one: Split, other: Split):
    assert not {source.path for source in library_sources(one)} & {s.path for s in library_sources(other)}
    wordings = [
        {text for attribute in attributes(split) for text in (*attribute.statements, attribute.question)}
        for split in (one, other)
    ]
    assert not wordings[0] & wordings[1]
    assert not set(vars(NOUNS[one]).values()) & set(vars(NOUNS[other]).values())


@pytest.mark.parametrize("split", SPLITS)
def test_files_of_the_standard_library_are_in_the_split_that_models_and_scorers_were_fitted_with(
    split: Split,
):
    mine = {source.path for source in library_sources(split) if not source.name.startswith("numpy/")}
    assert mine <= set(ordinary_files(split))
    assert {source.kind for source in library_sources(split)} == {"prose", "code"}


def test_the_files_of_a_folder_are_divided_by_name(tmp_path: Path):
    names = [f"{number}.txt" for number in range(60)]
    for name in names:
        (tmp_path / name).write_text("text\n")
    found = {split: [source.name for source in folder_sources(tmp_path, split)] for split in SPLITS}
    assert sorted(name for part in found.values() for name in part) == sorted(names)
    assert all(zlib.crc32(name.encode()) % 8 in FILE_CLASSES["test"] for name in found["test"])


@pytest.mark.parametrize("split", SPLITS)
def test_planted_facts_use_names_of_their_split_only(split: Split):
    hard = ("two_places", "order", "count", "latest")
    planted = [fact for seed in range(30) for fact in plant(random.Random(seed), split, 5, hard, 1)]
    words = {word for fact in planted for s in fact.sentences for word in re.findall(r"[A-Z]\w+", s)}
    foreign = {name for other in SPLITS if other != split for name in NAMES[other]}
    assert words & set(NAMES[split])
    assert not words & (foreign - {"March", "May", "August"})


def test_statements_end_the_sentence_with_or_after_their_value():
    for split in SPLITS:
        for attribute in attributes(split):
            assert "{name}" in attribute.question
            for statement in attribute.statements:
                assert statement.index("{name}") < statement.index("{value}")
                assert statement.count("{value}") == 1


def test_a_shelf_gives_nothing_twice_before_it_has_given_everything():
    sources = library_sources("validation")
    shelf = Shelf(sources, "code", random.Random(1))
    blocks = [block for source in sources if source.kind == "code" for block in source.blocks()]
    assert sorted(shelf.take() for _ in blocks) == sorted(blocks)
