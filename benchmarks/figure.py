"""The README's figure, `docs/reference/quality.svg`, out of the committed results.

The points are also in the file as JSON, as the description in its metadata, so that a test can compare them
with the results.
"""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.labels import NAMES

SHOWN = ("namm-zero", "namm", "namm-key", "h2o", "keydiff", "snapkv", "streaming")
LEARNED = ("namm-zero", "namm", "namm-key")
# Colours with enough contrast on white and on the dark background of code hosts; the figure itself has none.
TEXT, BLUE, ORANGE = "#7d8590", "#2f81f7", "#d9822b"
_DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"


def shown(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The points of the figure: score as a share of the full cache's, by policy and budget."""
    return [
        {
            "policy": row["policy"],
            "budget": row["budget"],
            "of_full": row["of_full"],
            "interval": row["of_full_interval"],
        }
        for row in report["rows"]
        if row["policy"] in SHOWN
    ]


def shown_in(figure: Path) -> list[dict[str, Any]]:
    """The points that a committed figure was drawn from."""
    description = ElementTree.parse(figure).getroot().find(f".//{_DESCRIPTION}")
    assert description is not None, f"{figure} was not made by benchmarks.figure"
    points: list[dict[str, Any]] = json.loads(description.text or "")
    return points


def draw(report: dict[str, Any], path: Path) -> None:
    """One line a policy; an open dot for the smaller budget, a filled one for the larger."""
    import matplotlib
    from matplotlib.figure import Figure

    points = shown(report)
    budgets = list(dict.fromkeys(point["budget"] for point in points))
    # Text stays text, drawn in the reader's font, and the same results give the same file.
    style = {"svg.fonttype": "none", "svg.hashsalt": "palimpsest", "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.2, 3), layout="constrained")
        axes = figure.subplots()
        for place, policy in enumerate(SHOWN):
            colour = BLUE if policy in LEARNED else ORANGE
            mine = [point for point in points if point["policy"] == policy]
            for number, point in enumerate(mine):
                value, (low, high) = 100 * point["of_full"], point["interval"]
                axes.errorbar(
                    value,
                    place + 0.28 * (number - 0.5),
                    xerr=[[value - 100 * low], [100 * high - value]],
                    color=colour,
                    marker="o",
                    markersize=5,
                    markerfacecolor=colour if number else "none",
                    capsize=2,
                    linewidth=1.2,
                )
        axes.axvline(100, color=TEXT, linewidth=1, linestyle="--")
        for number, budget in enumerate(budgets):
            face = TEXT if number else "none"
            axes.plot([], [], "o", color=TEXT, markerfacecolor=face, label=f"{budget} of the tokens kept")
        axes.plot([], [], color=TEXT, linestyle="--", linewidth=1, label="full cache")
        axes.legend(loc="center left", bbox_to_anchor=(0.16, 0.5), frameon=False, labelcolor=TEXT)
        axes.set_yticks(range(len(SHOWN)), [NAMES.get(policy, policy) for policy in SHOWN])
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
        axes.set_xlabel("score as a share of the full cache's, with 95% intervals", color=TEXT)
        axes.tick_params(colors=TEXT, length=0)
        axes.grid(axis="x", color=TEXT, alpha=0.25)
        for side in axes.spines.values():
            side.set_visible(False)
        metadata = {"Date": None, "Title": "Quality with a pruned cache", "Description": json.dumps(points)}
        figure.savefig(path, metadata=metadata, transparent=True)
