"""Measure settings in processes of their own, and keep what they print."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import tables
from benchmarks.labels import Row

console = Console()


def make(name: str, settings: list[Row], module: str = "measure") -> None:
    write(name, [row for setting in settings for row in run(module, setting)])


def run(module: str, setting: Row) -> list[Row]:
    """Measure one setting in a separate process."""
    console.print(
        f"{module}: {', '.join(f'{key} {value}' for key, value in setting.items() if key != 'ids')}"
    )
    command = [sys.executable, "-m", f"benchmarks.{module}", json.dumps(setting)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(done.stdout)
    rows = measured if isinstance(measured, list) else [measured]
    for row in rows:
        said = {key: row[key] for key in ("tokens", "found", "tokens_per_second", "seconds") if key in row}
        console.print(f"  {', '.join(f'{key} {value:,}' for key, value in said.items())}")
    return rows


def evaluate(
    name: str,
    tasks: str,
    model: str,
    policies: str,
    budgets: str,
    processes: int,
    limit: int | None,
    more: Sequence[str] = (),
) -> None:
    """Run `namm evaluate` with the options `more`, and render its report."""
    measure(tables.RESULTS / f"{name}.json", tasks, model, policies, budgets, processes, limit, more)
    _render()


def measure(
    out: Path,
    tasks: str,
    model: str,
    policies: str,
    budgets: str,
    processes: int,
    limit: int | None,
    more: Sequence[str] = (),
) -> None:
    """Run `namm evaluate` with the options `more`; it goes on from what is beside the report `out`."""
    command = [sys.executable, "-m", "namm_runtime.cli", "evaluate", "--json", str(out)]
    options = ["--tasks", tasks, "--model", model, "--policies", policies, "--budgets", budgets]
    options += ["--processes", str(processes), "--plot", "none"]
    options += ["--limit", str(limit)] if limit else []
    subprocess.run([*command, *options, *more], check=True, cwd=tables.ROOT)


def write(name: str, rows: list[Row]) -> None:
    tables.RESULTS.mkdir(exist_ok=True)
    (tables.RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    _render()


def _render() -> None:
    for path in tables.render():
        console.print(f"wrote {path}")
