"""Plot the progress of a search."""

from pathlib import Path
from typing import TYPE_CHECKING

from namm_runtime.plotting import save_figure

if TYPE_CHECKING:
    from namm_runtime.evolve.search import Search


def plot(search: "Search", path: Path) -> None:
    """Draw fitness and the share kept against the generation; SVG or PNG by suffix."""
    from matplotlib.figure import Figure

    log = search.log
    numbers = [entry["number"] for entry in log]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    above.plot(numbers, [entry["best"] for entry in log], color="0.75", label="best candidate, training")
    above.plot(numbers, [entry["mean"] for entry in log], color="0.5", label="mean of candidates, training")
    checks = [vars(search.start), *(entry["validation"] for entry in log if entry["validation"])]
    above.plot(
        [check["generation"] for check in checks],
        [check["fitness"] for check in checks],
        marker="o",
        markersize=4,
        label="mean of the search, validation",
    )
    above.axvline(search.best.generation, color="black", linewidth=0.8, linestyle=":", label="deployed")
    above.set_ylabel("fitness (full cache = 1)")
    above.legend(fontsize="small")
    below.plot(numbers, [100 * entry["kept"] for entry in log], color="0.5")
    below.set_ylabel("kept, %")
    below.set_xlabel("generation")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    save_figure(figure, path)
