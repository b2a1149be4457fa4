"""Suites of generated documents."""

import pytest

from namm_runtime.errors import Refusal
from namm_runtime.evaluate.suite import SUITES, Suite, load
from tests.support.tiny import byte_tokenizer


def test_suites_that_come_with_the_package_can_be_read():
    names = {path.stem: Suite.read(path) for path in SUITES.glob("*.toml")}
    assert {"bundled", "long", "million"} <= names.keys()
    assert {suite.split for suite in names.values()} == {"test"}


def test_a_suite_makes_documents_of_families_lengths_and_questions(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(
        'name = "s"\nfamilies = ["multi", "listing"]\nlengths = [600, 900]\ndocuments = 2\nquestions = 2\n'
    )
    found = load([str(path)], byte_tokenizer())
    assert [(document.tasks, document.length) for document in found[::2]] == [
        (("multi",), 600), (("multi",), 900), (("listing",), 600), (("listing",), 900),
    ]  # fmt: skip
    assert all(len(document.items) <= 2 and len(document.text) <= document.length for document in found)
    assert len({document.sha256 for document in found}) == 8
    assert load([str(path)], byte_tokenizer()) == found
    assert len(load([str(path)], byte_tokenizer(), limit=1)) == 4
    path.write_text(path.read_text().replace("listing", "guessing"))
    with pytest.raises(Refusal, match="guessing"):
        load([str(path)], byte_tokenizer())


@pytest.mark.parametrize(
    "text",
    ["name =", 'name = "x"', 'name = "x"\ncolour = 1\nlengths=[1]\ndocuments=1\nquestions=1',
     'name = "x"\nlengths = [0]\ndocuments = 1\nquestions = 1',
     'name = "x"\nlengths = [9]\ndocuments = 1\nquestions = 1\nsplit = "secret"'],
)  # fmt: skip
def test_bad_suites_are_refused(tmp_path, text):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(Refusal) as refusal:
        Suite.read(tmp_path / "s.toml")
    assert refusal.value.code == "bad_suite"
