"""`palimpsest ledger`: the bills made again from the usage ledger, on the machine that has the database."""

import typer
from rich.console import Console

from palimpsest.commands.common import LocalData, failing_clearly
from palimpsest.machine.access import transaction
from palimpsest.machine.data_directory import settings_with
from store.billing import bills

app = typer.Typer(help="The usage ledger, on the machine that has the database.", no_args_is_help=True)
out = Console(highlight=False, emoji=False, soft_wrap=True)


@app.callback()
def _ledger() -> None:
    """Keeps `rebuild` a command of its own while it is the only one."""


@app.command()
def rebuild(data: LocalData = None) -> None:
    """Make every bill again from the ledger, in one transaction; jobs that end meanwhile wait for it."""
    with failing_clearly(), transaction(settings_with(data, "DATABASE_URL")) as session:
        count, different = bills.rebuild_and_compare(session)
    told = f"{different:,} differ from before" if different else "none differs from before"
    out.print(f"{count:,} bills made from the ledger; {told}.", markup=False)
