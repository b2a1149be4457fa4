"""Plot quality against cache size."""

from pathlib import Path
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.evaluate.formatting import label
from namm_runtime.plotting import save_figure


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw the score (relative to the full cache's, if present) against the share kept; SVG or PNG by suffix.

    Raises:
        Refusal: `extra_missing` without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise Refusal(
            "extra_missing", f"the plot needs '{error.name}': pip install 'palimpsest[evaluate]'"
        ) from None
    rows = [row for row in report["rows"] if row["score"] is not None and "kept_fraction" in row]
    relative = any(row["policy"] == "full" for row in rows)
    name = "of_full" if relative else "score"
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    policies = list(dict.fromkeys(label(row) for row in rows if row["budget"] is not None))
    for number, policy in enumerate(policies):
        points = sorted(
            (row["kept_fraction"], row[name], row[f"{name}_interval"] or [row[name]] * 2)
            for row in rows
            if label(row) == policy and row[name] is not None
        )
        if not points:
            continue
        kept, values, bounds = zip(*points, strict=True)
        aside = 1.012 ** (number - len(policies) / 2)  # intervals of equal caches would overlap
        below = [max(0.0, value - bound[0]) for value, bound in zip(values, bounds, strict=True)]
        above = [max(0.0, bound[1] - value) for value, bound in zip(values, bounds, strict=True)]
        axes.errorbar(
            [share * aside for share in kept], values, (below, above), label=policy, marker="o", markersize=4,
            capsize=2, linewidth=1, clip_on=False,
        )  # fmt: skip
    if relative:
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":", label="full cache")
    axes.set_xscale("log")
    budgets: dict[str, list[float]] = {}
    for row in rows:
        if row["budget"] is not None:
            budgets.setdefault(row["budget"], []).append(row["kept_fraction"])
    ticks = sorted(sum(shares) / len(shares) for shares in budgets.values())
    axes.set_xticks(ticks, [f"{share:.3g}%" for share in (100 * tick for tick in ticks)])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("share of tokens kept, largest head of each layer; points of a budget are side by side")
    axes.set_ylabel("score, full cache = 100%" if relative else "score")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    save_figure(figure, path)
