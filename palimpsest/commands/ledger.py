"""`palimpsest ledger`: recomputes the bills from the usage ledger, directly in the database."""

import typer
from rich.console import Console

from palimpsest.commands.common import LocalData, reporting_errors
from palimpsest.machine.access import transaction
from palimpsest.machine.data_directory import settings_with
from store.billing import bills

app = typer.Typer(
    help="Recompute bills from the usage ledger; needs access to the database.", no_args_is_help=True
)
out = Console(highlight=False, emoji=False, soft_wrap=True)


@app.callback()
def _ledger() -> None:
    """Keeps `rebuild` a subcommand although it is the only one."""


@app.command()
def rebuild(data: LocalData = None) -> None:
    """Recompute every bill in one transaction. Jobs that end in the meantime wait for it."""
    with reporting_errors(), transaction(settings_with(data, "DATABASE_URL")) as session:
        count, different = bills.rebuild_and_compare(session)
    told = f"{different:,} changed" if different else "none changed"
    out.print(f"{count:,} bills recomputed from the ledger; {told}.", markup=False)
