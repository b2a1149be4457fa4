"""The digest of a folder with known facts, made by the whole service, and what it carries of them."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.labels import Row, made, table
from namm_runtime.machine import machine
from palimpsest import digest_check
from palimpsest.machine.supervisor import running

EXAMPLE = Path(__file__).parents[1] / "examples" / "nightly-digest"


def measure(
    model: str, template: str, words: int, points: int, folder: Path, facts: Path, keep: Path | None
) -> Row:
    """One row: a digest by `palimpsest bulk`, checked. `keep` is a folder for its bundle."""
    asked = ["--template", template, "--words", str(words), "--points", str(points)]
    with tempfile.TemporaryDirectory(prefix="palimpsest-bench-") as place:
        bundle = keep or Path(place) / "bundle"
        environment = {"PALIMPSEST_MODEL": model, "PYTHONPATH": str(Path(__file__).parents[1])}
        with running(Path(place) / "data", environment=environment) as service:
            access = {"PALIMPSEST_URL": service.base_url, "PALIMPSEST_API_KEY": service.api_key}
            palimpsest = [sys.executable, "-c", "from palimpsest.cli import app; app()"]
            begun = time.perf_counter()
            subprocess.run(
                [*palimpsest, "bulk", str(folder), "--name", facts.parent.name, *asked, "--to", str(bundle)],
                env=os.environ | environment | access,
                check=True,
            )
            seconds = time.perf_counter() - begun
        found = digest_check.check(bundle, facts).as_json()
    sizes = {"words": words, "points": points, "seconds": round(seconds)}
    return {"model": model, "template": template, **sizes, **found, "machine": machine()}


def render(rows: list[Row]) -> str:
    """The rows as Markdown."""
    head = ["model", "template", "facts carried", "words", "points", "exact", "near", "unlocated"]
    head += ["inventions", "loops", "time"]
    lines = [
        [
            row["model"],
            f"`{row['template']}`",
            f"{row['totals']['carried']} of {row['totals']['facts']}",
            f"{min(words := [one['words'] for one in row['documents']])} to {max(words)}",
            *(str(row["totals"][name]) for name in ("points", "exact", "near", "unlocated")),
            str(row["totals"]["inventions"] + row["totals"]["unknown_numbers"]),
            str(row["totals"]["loops"]),
            f"{row['seconds']} s",
        ]
        for row in rows
    ]
    asked = rows[0]
    caption = (
        f"{asked['totals']['documents']} documents and the summary of all, {asked['points']} points and "
        f"{asked['words']} words asked for. One run each, {made(rows)} Measured."
    )
    return "\n".join([*table(head, lines), "", caption])
