"""Make every figure of the README: `python -m benchmarks`; one of them: `python -m benchmarks policies`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

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


@app.command()
def policies(tokens: int = MILLION, budget: int = tables.BUDGET) -> None:
    """The README's table: every policy over the same million tokens."""
    names = ("namm-key", "namm", "namm-key-zeroed", "keydiff", "h2o", "streaming")
    _make("policies", [{"policy": name, "budget": budget, "tokens": tokens} for name in names])


@app.command()
def slots(tokens: int = 65_536) -> None:
    """Slots × speed × facts found: where the default budget comes from."""
    budgets = (128, 256, 512, 1024)
    grid = [(name, budget) for name in ("namm-key", "keydiff", "streaming") for budget in budgets]
    _make("slots", [{"policy": name, "budget": budget, "tokens": tokens} for name, budget in grid])


@app.command()
def memory(budget: int = tables.BUDGET) -> None:
    """Peak memory of the process against the document's length."""
    lengths = (65_536, 262_144, MILLION)
    _make("memory", [{"policy": "namm-key", "budget": budget, "tokens": tokens} for tokens in lengths])


@app.command()
def quality(budgets: str = "12.5%,25%", processes: int = 2) -> None:
    """Policies × budgets on the bundled suite; goes on where it was interrupted."""
    policies = "full,namm,namm-key,namm-key-zeroed,h2o,snapkv,keydiff,l2,streaming"
    command = [sys.executable, "-m", "namm_runtime.cli", "evaluate", "--json", str(RESULTS / "quality.json")]
    options = ["--policies", policies, "--budgets", budgets, "--processes", str(processes)]
    subprocess.run([*command, *options], check=True)
    render()


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
