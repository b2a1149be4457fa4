"""Make every figure of the README: `python -m benchmarks`; one of them: `python -m benchmarks policies`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from benchmarks import resume as resuming
from benchmarks import tables

RESULTS = Path(__file__).parent / "results"
MILLION = 1_000_000
console = Console()
app = typer.Typer(add_completion=False, invoke_without_command=True, help=__doc__)


@app.callback()
def everything(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        slots()
        memory()
        policies()
        resume()


@app.command()
def policies(tokens: int = MILLION, budget: int = tables.BUDGET) -> None:
    """The README's table: every policy over the same million tokens."""
    names = ("namm-key", "namm", "namm-key-zeroed", "keydiff", "h2o", "window")
    _make("policies", [{"policy": name, "budget": budget, "tokens": tokens} for name in names])


@app.command()
def slots(tokens: int = 65_536) -> None:
    """Slots × speed × facts found: where the default budget comes from."""
    budgets = (128, 256, 512, 1024)
    grid = [(name, budget) for name in ("namm-key", "keydiff", "window") for budget in budgets]
    _make("slots", [{"policy": name, "budget": budget, "tokens": tokens} for name, budget in grid])


@app.command()
def memory(budget: int = tables.BUDGET) -> None:
    """Peak memory of the process against the document's length."""
    lengths = (65_536, 262_144, MILLION)
    _make("memory", [{"policy": "namm-key", "budget": budget, "tokens": tokens} for tokens in lengths])


@app.command()
def resume(tokens: int = 100_000, policy: str = "namm-key", threads: int = 1) -> None:
    """Reading straight through against reading half, saving, and reading on in a new process."""
    row = resuming.check(tokens, policy, threads=threads)
    console.print_json(json.dumps(row))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "resume.json").write_text(json.dumps([row], indent=1) + "\n")
    render()
    if not row["identical"]:
        raise typer.Exit(1)


@app.command()
def render() -> None:
    """Write the tables of README and docs anew from the committed results."""
    for path in tables.render():
        console.print(f"wrote {path}")


def _make(name: str, settings: list[dict[str, Any]]) -> None:
    rows = []
    for setting in settings:
        console.print(f"{name}: {setting['policy']}, {setting['budget']} slots, {setting['tokens']:,} tokens")
        command = [sys.executable, "-m", "benchmarks.measure", json.dumps(setting)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout)
        console.print(f"  found {row['found']}/{row['asked']}, {row['tokens_per_second']:,} tokens/s")
        rows.append(row)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    render()


app()
