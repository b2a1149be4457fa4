"""Save figures reproducibly."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write SVG or PNG by suffix. The same figure gives the same bytes: no date, and a fixed salt for ids."""
    import matplotlib

    metadata = {"Date": None} if path.suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "palimpsest"}):
        figure.savefig(path, metadata=metadata, dpi=150)
