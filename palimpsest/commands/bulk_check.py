"""`palimpsest bulk check`: which known facts a bundle's summaries carry, and which points have a place."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from palimpsest import digest_check
from palimpsest.commands.common import AsJson, out, print_json, reporting_errors, wide
from palimpsest.digest_check import Check, DocumentCheck


def check(
    bundle: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder of a bundle.", metavar="BUNDLE")
    ],
    facts: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="TOML file: the facts of each document, and the bar."),
    ],
    as_json: AsJson = False,
) -> None:
    """Check a bundle's summaries against known facts. Needs no service.

    The exit code is 0 if the bar of the facts file is met, 1 if not.
    """
    with reporting_errors():
        found = digest_check.check(bundle, facts)
    if as_json:
        print_json(found.as_json())
    else:
        show(found)
    if found.shortfalls():
        raise typer.Exit(1)


def show(found: Check) -> None:
    """Print a table, what is missing or invented in each document, and whether the bar is met."""
    table = Table(box=None, pad_edge=False)
    for heading in (
        "document",
        "facts",
        "points",
        "exact",
        "near",
        "unlocated",
        "inventions",
        "loops",
        "words",
    ):
        table.add_column(heading, justify="left" if heading == "document" else "right")
    for one in found.documents:
        table.add_row(Text(one.path), *_counts(one))
    wide.print(table)
    for one in found.documents:
        for what, items in (
            ("carried", one.carried),
            ("missing", one.missing),
            ("invented", one.inventions),
            ("numbers that the document does not have", one.unknown_numbers),
        ):
            if items:
                out.print(f"{one.path}, {what}: {', '.join(items)}", markup=False)
    totals = found.totals()
    out.print(
        f"{totals['carried']} of {totals['facts']} facts; of {totals['points']} points "
        f"{totals['exact']} exact, {totals['near']} near, {totals['unlocated']} unlocated; "
        f"{totals['inventions']} inventions, {totals['unknown_numbers']} unknown numbers, "
        f"{totals['loops']} loops stopped.",
        markup=False,
        soft_wrap=True,
    )
    for sentence in found.shortfalls():
        out.print(f"Below the bar: {sentence}", markup=False)
    if not found.shortfalls():
        out.print("The bar is met.", markup=False)


def _counts(one: DocumentCheck) -> list[str]:
    invented = len(one.inventions) + len(one.unknown_numbers)
    facts = f"{len(one.carried)} of {len(one.carried) + len(one.missing)}"
    return [
        facts,
        *map(str, (one.points, one.exact, one.near, one.unlocated, invented, one.loops, one.words)),
    ]
