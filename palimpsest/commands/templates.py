"""`palimpsest template`: versioned prompt templates for summaries, over REST."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from palimpsest.commands.common import AsJson, Data, connected, out, print_json, wide
from palimpsest.machine.data_directory import LocalError

app = typer.Typer(help="Manage versioned prompt templates for summaries.", no_args_is_help=True)


@app.command("list")
def list_templates(as_json: AsJson = False, data: Data = None) -> None:
    """List every version of every template."""
    with connected(data) as client:
        found = client.templates()
        if as_json:
            return print_json(found)
        table = Table(box=None, pad_edge=False)
        for heading in ("template", "used", "", "prompt"):
            table.add_column(heading)
        for one in found["data"]:
            table.add_row(
                one["label"],
                "for each point" if one["each_point"] else "once",
                "built in" if one["builtin"] else "",
                Text(" ".join(one["prompt"].split())[:80]),
            )
        wide.print(table)


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Text file with the prompt.", metavar="FILE")
    ],
    each_point: Annotated[
        bool, typer.Option("--each-point", help="Use the prompt once for each key point, with its {number}.")
    ] = False,
    data: Data = None,
) -> None:
    """Add a version and print its label. {points}, {words} and {number} in the prompt are replaced."""
    with connected(data) as client:
        try:
            prompt = file.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise LocalError(f"{file} cannot be read as UTF-8 text: {error}") from None
        out.print(client.add_template(name, prompt, each_point=each_point)["label"], markup=False)


@app.command()
def show(
    label: Annotated[str, typer.Argument(help="NAME or NAME@VERSION.", metavar="TEMPLATE")],
    data: Data = None,
) -> None:
    """Print a template's prompt; without a version, the newest."""
    with connected(data) as client:
        found = [one for one in client.templates()["data"] if label in (one["label"], one["name"])]
        if not found:
            raise LocalError(f"There is no template '{label}'.")
        out.print(found[-1]["prompt"], markup=False)
