"""The figures people read are the figures that were measured."""

import json

import pytest

from benchmarks import quality_tables, tables

PAGES = [tables.ROOT / "README.md", tables.ROOT / "docs" / "reference" / "benchmarks.md"]


@pytest.mark.parametrize(("page", "block"), list(zip(PAGES, ("summary", "policies"), strict=True)))
def test_tables_equal_the_committed_results(page, block):
    text = page.read_text()
    assert f"<!-- benchmark: {block} -->" in text
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


def test_seeds_stand_side_by_side():
    report = json.loads((tables.RESULTS / "quality.json").read_text())
    other = json.loads(json.dumps(report))
    for row in other["rows"]:
        row["of_full"], row["of_full_interval"] = 0.1234, [0.1, 0.15]
    rows = quality_tables.by_seed({0: report, 7: other})
    assert {row["policy"] for row in rows} == {"full", quality_tables.HEADLINE, *quality_tables.BESIDE}
    lines = quality_tables.seeds(rows).splitlines()
    assert lines[0].startswith("| policy | kept | seed 0 | seed 7 |")
    cells = [line.split(" | ") for line in lines[3:-2]]
    assert {line[3] for line in cells} == {"12.3% [10.0, 15.0]"}
    assert "12.3% [10.0, 15.0]" not in {line[2] for line in cells}
