"""One job over REST, from submission to result, and its bill."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from palimpsest.commands.jobs import follow, print_settings
from palimpsest.machine.data_directory import LocalError
from palimpsest_client import Client

MIB = 2**20
console = Console(highlight=False, emoji=False, soft_wrap=True)


def run(client: Client, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Submit a job, show its progress and return it with its result.

    Raises LocalError if the job did not succeed.
    """
    job = client.submit(**fields)
    prompts = len(fields.get("questions") or ["summary"])
    console.print(f"POST /v1/jobs       {job['id']}, {prompts} prompt" + "s" * (prompts > 1))
    job = follow(client, job["id"])
    if job["state"] != "succeeded":
        error = job["error"] or {}
        raise LocalError(f"{job['id']} {job['state']} {error.get('code', '')}: {error.get('message', '')}")
    return job, client.result(job["id"])


def answered_with(job: dict[str, Any]) -> str:
    """Policy, scorer and model of a job, for people."""
    scorer = job.get("scorer")
    return f"policy {job['policy']}" + (f", scorer {scorer}" if scorer else "") + f", model {job['model']}"


def one_line(text: str) -> str:
    """An answer on one line, safe to print with markup."""
    return escape(" ".join(text.split()))


def print_bill(client: Client, job: dict[str, Any]) -> None:
    """Print the job's bill, each figure with how it was determined."""
    bill = client.cost(job["id"])
    table = Table("figure", "quantity", "", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    spent: dict[str, float] = {}
    for line in bill["lines"]:
        if not line["waste"]:
            before, quantity = spent.get(line["meter"], 0.0), float(line["quantity"])
            # Seconds add up over attempts; the others are the state at the end of each.
            adds = line["unit"] == "second"
            spent[line["meter"]] = before + quantity if adds else max(before, quantity)
    reading = spent.get("device_seconds.read", 0.0) + spent.get("device_seconds.score", 0.0)
    if reading:
        table.add_row("tokens read", f"{spent['tokens.document']:,.0f}", "", "measured")
        table.add_row("reading speed", f"{spent['tokens.document'] / reading:,.0f}", "tokens/s", "derived")
    if spent.get("tokens.document"):
        share = spent["tokens.kept"] / spent["tokens.document"]
        table.add_row("kept in the KV cache", f"{share:.2%}", "of the tokens", "derived")
    for figure in bill["summary"]:
        quantity, unit = float(figure["quantity"]), figure["unit"]
        if unit in ("byte", "byte-second"):
            quantity, unit = quantity / MIB, unit.replace("byte", "MiB")
        shown = f"{quantity:,.6f}" if unit == bill["currency"] else f"{quantity:,.1f}"
        table.add_row(figure["name"].replace("_", " "), shown, unit, figure["measurement"])
    console.print(table)
    print_settings(bill["setting"])
    if bill.get("no_saving"):
        console.print(bill["no_saving"])
    console.print(
        f"price: {bill['price_per_device_hour']} {bill['currency']} per device-hour "
        "(`palimpsest price load` sets your own)"
    )
