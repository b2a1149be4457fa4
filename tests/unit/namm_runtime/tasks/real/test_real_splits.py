"""No split of the real text shares a source file, a wording or a name with another."""

import random
import re
import zlib
from itertools import combinations
from pathlib import Path

import pytest

from namm_runtime.tasks.filler import FILE_CLASSES, ordinary_files
from namm_runtime.tasks.real.planted import HARD, plant
from namm_runtime.tasks.real.sources import Shelf, folder_sources, library_sources
from namm_runtime.tasks.real.wordings import LANGUAGES, wordings
from namm_runtime.tasks.words import NAMES, SPLITS, Split


@pytest.mark.parametrize(("one", "other"), list(combinations(SPLITS, 2)))
def test_splits_share_no_source_file_and_no_wording(one: Split, other: Split):
    assert not {source.path for source in library_sources(one)} & {s.path for s in library_sources(other)}
    mine, theirs = wordings("en", one), wordings("en", other)
    texts = [
        {text for attribute in words.attributes for text in (*attribute.statements, attribute.question)}
        | {text for hard in words.hard.values() for text in (hard.question, hard.lead)}
        for words in (mine, theirs)
    ]
    assert not texts[0] & texts[1]
    assert not set(mine.vocabulary.materials) & set(theirs.vocabulary.materials)


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
    words = wordings("en", split)
    planted = [fact for seed in range(30) for fact in plant(random.Random(seed), words, 5, HARD, 1)]
    capitalised = {word for fact in planted for s in fact.sentences for word in re.findall(r"[A-Z]\w+", s)}
    foreign = {name for other in SPLITS if other != split for name in NAMES[other]}
    assert capitalised & set(NAMES[split])
    assert not capitalised & (foreign - {"March", "May", "August"})


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_statement_names_its_thing_before_it_states_the_value(language: str):
    words = wordings(language, "test")
    for attribute in words.attributes:
        assert "{name}" in attribute.question
        assert "{value}" not in attribute.question
        for statement in attribute.statements:
            assert statement.index("{name}") < statement.index("{value}")
            assert statement.count("{value}") == 1
    assert set(words.hard) == set(HARD)
    assert all(hard.lead.count("{value}") == 1 for hard in words.hard.values())


def test_a_shelf_gives_nothing_twice_before_it_has_given_everything():
    sources = library_sources("validation")
    shelf = Shelf(sources, "code", random.Random(1))
    blocks = [block for source in sources if source.kind == "code" for block in source.blocks()]
    assert sorted(shelf.take() for _ in blocks) == sorted(blocks)
