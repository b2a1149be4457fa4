"""The README's figure shows the committed results."""

import json

from benchmarks import figure, tables

REPORT = json.loads((tables.RESULTS / "quality.json").read_text())


def test_the_figure_was_drawn_from_the_committed_results() -> None:
    assert figure.shown_in(tables.FIGURE) == figure.shown(REPORT), "run `python -m benchmarks figure`"
    assert tables.FIGURE.relative_to(tables.ROOT).as_posix() in (tables.ROOT / "README.md").read_text()


def test_it_shows_every_policy_at_every_budget() -> None:
    points = figure.shown(REPORT)
    budgets = {budget["label"] for budget in REPORT["settings"]["budgets"]}
    assert {(point["policy"], point["budget"]) for point in points} == {
        (policy, budget) for policy in figure.SHOWN for budget in budgets
    }
    assert len(points) == len(figure.SHOWN) * len(budgets)


def test_other_results_make_another_figure(tmp_path) -> None:
    report = json.loads(json.dumps(REPORT))
    changed = next(row for row in report["rows"] if row["policy"] == "h2o")
    changed["of_full"], changed["of_full_interval"] = 0.5, [0.4, 0.6]
    figure.draw(report, tmp_path / "quality.svg")
    assert figure.shown_in(tmp_path / "quality.svg") == figure.shown(report) != figure.shown(REPORT)
