"""The evaluation suite in short, for the README."""

from typing import Any

from benchmarks.labels import LABELS, table
from namm_runtime.evaluate.markdown import percent, points

CONTROLS = ("distilled",)


def headline(report: dict[str, Any]) -> str:
    """The suite in short: what each policy keeps of the full cache's score, and how it stands to KeyDiff."""
    budgets = [budget["label"] for budget in report["settings"]["budgets"]]
    rows = {(row["policy"], row["budget"]): row for row in report["rows"]}
    head = ["policy"] + [f"of the full cache's score, {budget} kept" for budget in budgets]
    head += [f"less KeyDiff, {budget}" for budget in budgets]
    lines = []
    compared = [row["policy"] for row in report["rows"] if row["budget"] and row["policy"] not in CONTROLS]
    for policy in dict.fromkeys(compared):
        mine = [rows[policy, budget] for budget in budgets]
        lines.append(
            [LABELS.get(policy, policy)]
            + [percent(row["of_full"], row["of_full_interval"]) for row in mine]
            + [points(row["minus"].get("keydiff")) for row in mine]
        )
    full = next(row for row in report["rows"] if row["policy"] == "full")
    caption = (
        f"{full['questions']:,} questions of {len(full['tasks'])} kinds, {full['documents']:,} documents of "
        f"{' and '.join(f'{int(length):,}' for length in full['lengths'])} tokens; the full cache scores "
        f"{percent(full['score'], full['score_interval'])}. In brackets 95 % intervals; bold where the "
        f"difference is outside of chance. {report['machine']['date']}. Measured."
    )
    return "\n".join([*table(head, lines), "", caption])
