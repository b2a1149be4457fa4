"""Plot the training curves: `python -m namm_runtime.training.curves DIR`."""

import argparse
import json
from pathlib import Path
from typing import Any

from namm_runtime.plotting import save_figure


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw each family's running accuracy and the answer loss against the training tokens."""
    from matplotlib.figure import Figure

    log = record["log"]
    tokens = [entry["tokens"] / 1e6 for entry in log]
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    for number, family in enumerate(sorted(log[-1]["accuracy"])):
        values = [entry["accuracy"].get(family) for entry in log]
        style = "-" if number < 10 else "--"
        above.plot(tokens, values, style, linewidth=1, label=family)
    above.set_ylabel("right answer tokens, running mean")
    above.legend(fontsize="x-small", ncols=3)
    below.plot(tokens, [entry["answer_loss"] for entry in log], color="0.5", linewidth=0.7)
    below.set_ylabel("answer loss, nats")
    below.set_xlabel("million tokens of training")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def main() -> None:
    """Write training.svg next to training.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    folder = parser.parse_args().model
    plot(json.loads((folder / "training.json").read_text()), folder / "training.svg")


if __name__ == "__main__":
    main()
