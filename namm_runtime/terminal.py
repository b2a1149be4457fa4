"""What the commands of `namm` share: a progress bar, and error output."""

from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from namm_runtime.errors import Refusal

Model = Annotated[
    str, typer.Option(help="A name from `namm model list`, a directory, a GGUF file or a hub id.")
]
Dtype = Annotated[
    str,
    typer.Option(help="auto, float32, bfloat16 or float16; auto is the fastest that fits the checkpoint."),
]


def progress_bar(quiet: bool = False) -> Progress:
    """A progress bar on standard error that disappears when done; `quiet` if another process shows it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True, quiet=quiet), transient=True)


def fail(refusal: Refusal) -> NoReturn:
    """Print the error and exit with status 2."""
    Console(stderr=True).print(f"[red]{refusal.code}[/]: {escape(refusal.message)}", highlight=False)
    raise typer.Exit(2)
