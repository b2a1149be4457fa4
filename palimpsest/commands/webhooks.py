"""`palimpsest webhook`: addresses that are told of events, over REST."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from palimpsest.commands.common import AsJson, Data, connected, console, out, print_json, wide

app = typer.Typer(
    help="Addresses that are told when jobs end, and what was sent to them.", no_args_is_help=True
)

WebhookId = Annotated[str, typer.Argument(help="As `palimpsest webhook list` shows it.", metavar="ID")]


@app.command("add")
def add(
    url: Annotated[str, typer.Argument(help="https://…, on the public internet.", metavar="URL")],
    event: Annotated[
        list[str] | None,
        typer.Option(
            help="A type such as job.succeeded or a family such as job.*; repeatable. All if left out."
        ),
    ] = None,
    description: Annotated[str, typer.Option(help="For you to tell it from others.")] = "",
    data: Data = None,
) -> None:
    """Have an address told of events; prints its id, and its signing secret this once."""
    with connected(data) as client:
        made = client.create_webhook(url, event or (), description)
        _print_secret(made["id"], made["secret"])


def _print_secret(webhook_id: str, secret: str) -> None:
    out.print(webhook_id, markup=False)
    out.print(secret, markup=False)
    console.print("The second line is the signing secret. It is not shown again.")


@app.command("list")
def list_webhooks(as_json: AsJson = False, data: Data = None) -> None:
    """List webhooks, newest first."""
    with connected(data) as client:
        found = client.webhooks()
        if as_json:
            return print_json(found)
        table = Table(box=None, pad_edge=False)
        for heading in ("id", "url", "events", "state", "description"):
            table.add_column(heading)
        for one in found["data"]:
            state = "failing" if one["failing_since"] else ""
            if one["disabled_at"]:
                state = f"disabled: {one['disabled_reason']}"
            events = ", ".join(one["events"]) or "all"
            table.add_row(
                one["id"], *(Text(cell) for cell in (one["url"], events, state, one["description"]))
            )
        wide.print(table)


@app.command("remove")
def remove(webhook_id: WebhookId, data: Data = None) -> None:
    """Delete a webhook with its log."""
    with connected(data) as client:
        client.delete_webhook(webhook_id)
        out.print(f"{webhook_id} deleted", markup=False)


@app.command("rotate")
def rotate(webhook_id: WebhookId, data: Data = None) -> None:
    """Print a new signing secret; for a day messages carry the signatures of both."""
    with connected(data) as client:
        _print_secret(webhook_id, client.rotate_webhook(webhook_id)["secret"])


@app.command("enable")
def enable(webhook_id: WebhookId, data: Data = None) -> None:
    """Send to a disabled webhook again, what has waited since first."""
    with connected(data) as client:
        client.enable_webhook(webhook_id)
        out.print(f"{webhook_id} enabled", markup=False)


@app.command("test")
def send_test(webhook_id: WebhookId, data: Data = None) -> None:
    """Send the event webhook.test; prints the delivery's id, which `palimpsest webhook log` then shows."""
    with connected(data) as client:
        out.print(client.test_webhook(webhook_id)["id"], markup=False)


@app.command("log")
def log(
    webhook_id: WebhookId,
    state: Annotated[
        list[str] | None, typer.Option(help="pending, delivered or failed; may be given more than once.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """List what was and is to be sent to a webhook, newest first."""
    with connected(data) as client:
        page = client.webhook_deliveries(webhook_id, state=state, limit=limit)
        if as_json:
            return print_json(page)
        table = Table(box=None, pad_edge=False)
        for heading in ("delivery", "event", "of", "state", "attempts", "last answer", "next attempt"):
            table.add_column(heading)
        for one in page["data"]:
            table.add_row(
                one["id"],
                one["event_type"],
                Text(str(one["payload"]["data"].get("job", ""))),
                one["state"],
                str(one["attempts"]),
                Text(one["last_error"] or str(one["last_status"] or "")),
                (one["next_attempt_at"] or "")[:19],
            )
        wide.print(table)


@app.command("redeliver")
def redeliver(
    webhook_id: WebhookId,
    delivery_id: Annotated[
        str, typer.Argument(help="As `palimpsest webhook log` shows it.", metavar="DELIVERY")
    ],
    data: Data = None,
) -> None:
    """Send a message again now, under the same message id."""
    with connected(data) as client:
        client.redeliver(webhook_id, delivery_id)
        out.print(f"{delivery_id} is sent again", markup=False)
