"""`palimpsest webhook`: URLs that receive events, over REST."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from palimpsest.commands.common import AsJson, Data, connected, console, out, print_json, wide

app = typer.Typer(
    help="Manage webhooks, which receive events such as the end of a job, and their deliveries.",
    no_args_is_help=True,
)

WebhookId = Annotated[str, typer.Argument(help="Id, as shown by `palimpsest webhook list`.", metavar="ID")]


@app.command("add")
def add(
    url: Annotated[str, typer.Argument(help="https:// URL on the public internet.", metavar="URL")],
    event: Annotated[
        list[str] | None,
        typer.Option(
            help="An event type such as job.succeeded, or a family such as job.*; repeatable. Default: all."
        ),
    ] = None,
    description: Annotated[str, typer.Option(help="A note to tell webhooks apart.")] = "",
    data: Data = None,
) -> None:
    """Add a webhook; prints its id and its signing secret, which is shown only once."""
    with connected(data) as client:
        made = client.create_webhook(url, event or (), description)
        _print_secret(made["id"], made["secret"])


def _print_secret(webhook_id: str, secret: str) -> None:
    out.print(webhook_id, markup=False)
    out.print(secret, markup=False)
    console.print("The second line is the signing secret. It will not be shown again.")


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
    """Delete a webhook and its delivery log."""
    with connected(data) as client:
        client.delete_webhook(webhook_id)
        out.print(f"{webhook_id} deleted", markup=False)


@app.command("rotate")
def rotate(webhook_id: WebhookId, data: Data = None) -> None:
    """Print a new signing secret. For one day, messages are signed with the old and the new one."""
    with connected(data) as client:
        _print_secret(webhook_id, client.rotate_webhook(webhook_id)["secret"])


@app.command("enable")
def enable(webhook_id: WebhookId, data: Data = None) -> None:
    """Enable a disabled webhook; waiting messages are sent first."""
    with connected(data) as client:
        client.enable_webhook(webhook_id)
        out.print(f"{webhook_id} enabled", markup=False)


@app.command("test")
def send_test(webhook_id: WebhookId, data: Data = None) -> None:
    """Send the event webhook.test and print the delivery's id; `palimpsest webhook log` shows the outcome."""
    with connected(data) as client:
        out.print(client.test_webhook(webhook_id)["id"], markup=False)


@app.command("log")
def log(
    webhook_id: WebhookId,
    state: Annotated[list[str] | None, typer.Option(help="pending, delivered or failed; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """List a webhook's deliveries, newest first."""
    with connected(data) as client:
        page = client.webhook_deliveries(webhook_id, state=state, limit=limit)
        if as_json:
            return print_json(page)
        table = Table(box=None, pad_edge=False)
        for heading in ("delivery", "event", "job", "state", "attempts", "last answer", "next attempt"):
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
        str, typer.Argument(help="Id, as shown by `palimpsest webhook log`.", metavar="DELIVERY")
    ],
    data: Data = None,
) -> None:
    """Send a message again now, with the same message id."""
    with connected(data) as client:
        client.redeliver(webhook_id, delivery_id)
        out.print(f"{delivery_id} will be sent again", markup=False)
