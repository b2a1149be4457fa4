"""Labels and helpers that several tables share."""

from typing import Any

Row = dict[str, Any]
MIB = 2**20

LABELS = {
    "namm-key": "**namm-key** (spectrogram + BAM + key diversity)",
    "namm": "**namm** (spectrogram + BAM, attention only)",
    "namm-layer": "namm-layer (and where a layer and head are)",
    "namm-zero": "**namm-zero** (the inputs of namm-key, evolved from nothing)",
    "bam-key": "**bam-key** (BAM over keys and age, no attention)",
    "namm-key-zeroed": "namm-key, spectrogram zeroed",
    "keydiff": "KeyDiff",
    "keydiff-token": "KeyDiff by token",
    "h2o": "H2O",
    "snapkv": "SnapKV",
    "l2": "L2 norm",
    "streaming": "streaming (StreamingLLM)",
}

NAMES = {  # without the explanation of LABELS; a policy that is not here goes by its own name
    "keydiff": "KeyDiff",
    "keydiff-token": "KeyDiff by token",
    "h2o": "H2O",
    "snapkv": "SnapKV",
    "streaming": "StreamingLLM",
}


def made(rows: list[Row]) -> str:
    """The machine on which all rows were measured.

    Raises:
        ValueError: they were not all measured on the same machine.
    """
    machines = [row["machine"] for row in rows]
    if len({(here["processor"], here["threads"], here["torch"]) for here in machines}) != 1:
        raise ValueError("the rows of a table come from different machines; measure them again on one")
    here = machines[0]
    return f"{here['processor']}, {here['threads']} threads, torch {here['torch']}, {here['date']}."


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)]
