"""`palimpsest ledger`: the bills made again from the usage ledger, on the machine that has the database."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from palimpsest.access import transaction
from palimpsest.local import settings_with
from palimpsest.remote import failing_clearly
from store.billing import bills

ledger = typer.Typer(help="The usage ledger, on the machine that has the database.", no_args_is_help=True)
out = Console(highlight=False, emoji=False, soft_wrap=True)

Data = Annotated[Path | None, typer.Option(help="Data directory of the service on this machine.")]


@ledger.callback()
def _ledger() -> None:
    """Keeps `rebuild` a command of its own while it is the only one."""


@ledger.command()
def rebuild(data: Data = None) -> None:
    """Make every bill again from the ledger, in one transaction; jobs that end meanwhile wait for it."""
    with failing_clearly(), transaction(settings_with(data, "DATABASE_URL")) as session:
        count, different = bills.rebuild_and_compare(session)
    told = f"{different:,} differ from before" if different else "none differs from before"
    out.print(f"{count:,} bills made from the ledger; {told}.", markup=False)
