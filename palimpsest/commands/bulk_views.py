"""How the command line shows bulk jobs: live progress, a table, details."""

import time
from decimal import Decimal
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from palimpsest.commands.common import POLL_SECONDS, console
from palimpsest_client import Client
from store.bulk import ENDED

MAX_ERRORS = 20  # shown one by one


def follow(client: Client, bulk_id: str) -> dict[str, Any]:
    """Show progress until the bulk job has ended; returns it as it is then."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} documents{task.fields[states]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("listing", total=0, states="")
        while True:
            bulk = client.bulk(bulk_id)
            if bulk["state"] in ENDED:
                return bulk
            known = bulk["progress"]
            progress.update(
                bar,
                description=Text(_standing(bulk)).markup,
                completed=known["done"],
                total=known["documents"],
                states=_others(known["states"]),
            )
            time.sleep(POLL_SECONDS)


def _standing(bulk: dict[str, Any]) -> str:
    """The state, and the reason if the bulk job waits."""
    reason = f", waiting: {bulk['error']['message']}" if bulk["error"] else ""
    return f"{bulk['state']}{reason}"


def _others(states: dict[str, int]) -> str:
    shown = [f"{count:,} {state}" for state, count in sorted(states.items()) if state != "succeeded"]
    return f" ({', '.join(shown)})" if shown else ""


def ending(bulk: dict[str, Any]) -> str:
    """How a bulk job ended, in one line."""
    known, error = bulk["progress"], bulk["error"]
    done = f"{known['states'].get('succeeded', 0):,} of {known['documents']:,} documents done"
    why = f" ({error['code']}): {error['message']}" if error else ""
    return f"{bulk['id']} {bulk['state']}, {done}{_others(known['states'])}{why}"


def table(bulks: list[dict[str, Any]]) -> Table:
    """A row for each bulk job."""
    found = Table(box=None, pad_edge=False)
    for heading in ("bulk job", "state", "collection", "documents done", "created"):
        found.add_column(heading)
    for one in bulks:
        known = one["progress"]
        found.add_row(
            one["id"],
            _standing(one) if one["state"] not in ENDED else one["state"],
            Text(one["collection"] or ""),
            f"{known['states'].get('succeeded', 0):,} of {known['documents']:,}",
            one["created_at"][:19],
        )
    return found


def details(client: Client, bulk: dict[str, Any]) -> list[str]:
    """The lines that describe a bulk job, its cost and its failed documents."""
    told = [ending(bulk) if bulk["state"] in ENDED else f"{bulk['id']} {_standing(bulk)}"]
    told += [f"  {state}: {count:,}" for state, count in sorted(bulk["progress"]["states"].items())]
    for spent in bulk["spent"]:
        told.append(f"Cost {_plain(spent['cost'])} {spent['currency']} (derived)")
        saved = _plain(spent["saving_allocated"])
        told.append(f"Saved {saved} {spent['currency']} of memory left free by the smaller cache (estimated)")
    if bulk["to"]:
        told.append(
            f"Not delivered to {bulk['to']}: {bulk['delivery_error']}"
            if bulk["delivery_error"]
            else f"Destination {bulk['to']}: {'delivered' if bulk['delivered_at'] else 'not delivered yet'}"
        )
    if bulk["progress"]["states"].get("failed"):
        told += failures(client, bulk["id"])
    return told


def failures(client: Client, bulk_id: str) -> list[str]:
    """Why documents failed, one line each, up to a limit."""
    told = []
    for number, one in enumerate(client.bulk_documents(bulk_id, state="failed")):
        if number == MAX_ERRORS:
            told.append("… more failures are listed in documents.jsonl.")
            break
        told.append(f"{one['path']}: {one['error']['code']}: {one['error']['message']}")
    return told


def _plain(amount: str | None) -> str:
    return "unknown" if amount is None else f"{Decimal(amount).normalize():f}"
