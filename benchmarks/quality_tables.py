"""Tables of the evaluation suite: a summary, results by seed, and separability."""

from typing import Any

from benchmarks.labels import LABELS, MIB, NAMES, Row, made, table
from namm_runtime.evaluate.formatting import percent, points

CONTROLS = ("distilled",)
HEADLINE = "namm-zero"  # the scorer that is evolved again from other seeds
BESIDE = ("keydiff", "h2o")
DEFAULT, QUARTER = "namm-key", "25%"
SUMMARY = (DEFAULT, "namm-zero", "namm", "keydiff", "h2o", "streaming")
_SENSES = ("attention", "keys")


def headline(report: dict[str, Any]) -> str:
    """Summary: each policy's score relative to the full cache's, and its difference to KeyDiff."""
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


def summary(million: list[Row], report: dict[str, Any]) -> str:
    """The README's table: a few policies over a million tokens, and their share of the full cache's score."""
    short = {row["policy"]: row for row in report["rows"] if row["budget"] == QUARTER}
    head = ["policy", f"facts found, {million[0]['tokens']:,} tokens", "tokens/s", "cache", "full cache"]
    head += [f"quality, {QUARTER} kept", "points ahead of KeyDiff"]
    lines = [
        [
            f"{NAMES.get(row['policy'], row['policy'])}{' (default)' if row['policy'] == DEFAULT else ''}",
            f"{row['found']} of {row['asked']}",
            f"{row['tokens_per_second']:,}",
            f"{row['resident_bytes'] / MIB:.1f} MiB",
            f"{row['dense_bytes'] / MIB:,.0f} MiB",
            percent(short[row["policy"]]["of_full"], short[row["policy"]]["of_full_interval"]),
            points(short[row["policy"]]["minus"].get("keydiff")),
        ]
        for row in million
        if row["policy"] in SUMMARY
    ]
    questions, lengths = (
        short[DEFAULT]["questions"],
        " and ".join(f"{int(n):,}" for n in short[DEFAULT]["lengths"]),
    )
    caption = (
        f"Facts, speed, cache: {million[0]['budget']} slots a head, one document, one run. {made(million)} "
        f"Quality: share of the full cache's score on {questions:,} questions about documents of {lengths} "
        "tokens, with 95 % intervals; bold where the interval of the difference excludes zero. "
        f"{made([report])}"
    )
    return "\n".join([*table(head, lines), "", caption])


def separability(rows: list[dict[str, Any]]) -> str:
    """How well a model's attention and keys separate needed values from look-alikes."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    head = ["values nobody asks for", *(f"{model}, by {sense}" for model in models for sense in _SENSES)]
    found = {(row["model"], row["family"]): row for row in rows}
    lines = [
        [family] + [f"{found[model, family][f'by_{sense}']:.2f}" for model in models for sense in _SENSES]
        for family in dict.fromkeys(row["family"] for row in rows)
    ]
    caption = (
        "Probability that a needed value is looked at more by the last quarter of the document, or has a key "
        "less like the mean key, than another value; 0.5 is chance. Mean over heads from the third layer on "
        f"and {rows[0]['documents']} documents of {rows[0]['tokens']:,} tokens of the test split, read with "
        f"the full cache. {made(rows)} Measured."
    )
    return "\n".join([*table(head, lines), "", caption])


def by_seed(reports: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a few policies from the reports of several seeds, without tasks and lengths."""
    wanted = ("full", HEADLINE, *BESIDE)
    parts = ("score", "score_interval", "of_full", "of_full_interval", "minus", "questions", "documents")
    return [
        {
            "seed": seed,
            "policy": row["policy"],
            "budget": row["budget"],
            **{part: row[part] for part in parts},
            "revision": report["model"]["revision"],
            "machine": report["machine"],
        }
        for seed, report in reports.items()
        for row in report["rows"]
        if row["policy"] in wanted
    ]


def seeds(rows: list[dict[str, Any]]) -> str:
    """One scorer and the heuristics on models trained with several seeds."""
    numbers = list(dict.fromkeys(row["seed"] for row in rows))
    budgets = list(dict.fromkeys(row["budget"] for row in rows if row["budget"]))
    found = {(row["seed"], row["policy"], row["budget"]): row for row in rows}
    head = ["policy", "kept", *(f"seed {number}" for number in numbers), "less KeyDiff", "less H2O"]
    whole = [found[number, "full", None] for number in numbers]
    lines = [["full (its score)", "all", *(percent(row["score"], None) for row in whole), "–", "–"]]
    for budget in budgets:
        for policy in (HEADLINE, *BESIDE):
            mine = [found[number, policy, budget] for number in numbers]
            lines.append(
                [LABELS.get(policy, policy), budget]
                + [percent(row["of_full"], row["of_full_interval"]) for row in mine]
                + [
                    " / ".join(points(row["minus"].get(other)) for row in mine) if other != policy else "–"
                    for other in ("keydiff", "h2o")
                ]
            )
    counts = " / ".join(f"{row['questions']:,}" for row in whole)
    caption = (
        "Share of the full cache's score on the suite, model and scorer made from each seed; differences in "
        f"points, seed by seed; {counts} questions. {made(rows)} Measured."
    )
    return "\n".join([*table(head, lines), "", caption])
