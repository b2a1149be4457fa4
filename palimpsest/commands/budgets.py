"""`palimpsest budget`: spending limits for a period, over REST."""

from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from palimpsest.commands.common import AsJson, Data, connected, out, print_json, wide

app = typer.Typer(help="Limit what jobs may cost in a period.", no_args_is_help=True)


@app.command("list")
def list_budgets(as_json: AsJson = False, data: Data = None) -> None:
    """List budgets, newest first, with the amount spent in the current period."""
    with connected(data) as client:
        found = client.budgets()
        if as_json:
            return print_json(found)
        table = Table(box=None, pad_edge=False)
        for heading in ("id", "scope", "spent", "limit", "action", "period ends", "state"):
            table.add_column(heading)
        for one in found["data"]:
            table.add_row(
                one["id"],
                Text(_scope(one)),
                _plain(one["spent"]),
                f"{_plain(one['amount'])} {one['currency']} a {one['period']}",
                one["action"],
                one["period_end"][:16].replace("T", " ") + " UTC",
                "crossed" if one["crossed"] else "",
            )
        wide.print(table)


def _scope(budget: dict[str, Any]) -> str:
    if budget["project"]:
        return f"project {budget['project']}"
    return str(budget["api_key_id"] or "everything")


def _plain(amount: str) -> str:
    return f"{Decimal(amount).normalize():f}"


@app.command("create")
def create_budget(
    amount: Annotated[str, typer.Argument(help="A decimal number, for example 12.50.", metavar="AMOUNT")],
    period: Annotated[
        str, typer.Option(help="day, week or month, by the calendar of the time zone.")
    ] = "month",
    action: Annotated[
        str,
        typer.Option(help="At the limit: notify, queue (jobs wait) or reject (jobs are refused and ended)."),
    ] = "notify",
    project: Annotated[str | None, typer.Option(help="Only jobs of this project.")] = None,
    key: Annotated[str | None, typer.Option(help="Only jobs of the API key with this id.")] = None,
    timezone: Annotated[str | None, typer.Option(help="IANA time zone; default: UTC.")] = None,
    currency: Annotated[str | None, typer.Option(help="Default: the currency of the price book.")] = None,
    data: Data = None,
) -> None:
    """Create a budget and print its id.

    It covers all of the tenant's jobs unless a project or key is given.
    """
    with connected(data) as client:
        made = client.create_budget(
            amount=amount,
            period=period,
            action=action,
            project=project,
            api_key_id=key,
            timezone=timezone,
            currency=currency,
        )
        out.print(made["id"], markup=False)


@app.command("delete")
def delete_budget(
    budget_id: Annotated[str, typer.Argument(help="Id, as shown by `palimpsest budget list`.", metavar="ID")],
    data: Data = None,
) -> None:
    """Delete a budget; jobs that it held in the queue continue."""
    with connected(data) as client:
        client.delete_budget(budget_id)
        out.print(f"{budget_id} deleted", markup=False)
