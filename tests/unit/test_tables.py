"""The figures people read are the figures that were measured."""

import json

import pytest

from benchmarks import tables

PAGES = [tables.ROOT / "README.md", tables.ROOT / "docs" / "reference" / "benchmarks.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_equal_the_committed_results(page):
    text = page.read_text()
    assert "<!-- benchmark: policies -->" in text
    assert tables.filled(text) == text, "run `python -m benchmarks render`"


def test_every_result_is_shown_and_says_where_it_was_made():
    shown = PAGES[1].read_text()
    files = sorted(tables.RESULTS.glob("*.json"))
    assert files
    for file in files:
        assert f"<!-- benchmark: {file.stem} -->" in shown
        result = json.loads(file.read_text())
        for row in result if isinstance(result, list) else [result]:
            assert {"torch", "date"} <= row["machine"].keys()
            assert {"processor", "device"} & row["machine"].keys()


def test_a_changed_figure_is_noticed():
    text = PAGES[1].read_text()
    rows = json.loads((tables.RESULTS / "policies.json").read_text())
    speed = f"{rows[0]['tokens_per_second']:,}"
    assert tables.filled(text.replace(speed, "999,999")) == text
