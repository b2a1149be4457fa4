"""`palimpsest report`: cost and savings of the service, directly from the database."""

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from palimpsest.commands.common import reporting_errors
from palimpsest.machine.access import transaction
from palimpsest.machine.data_directory import LocalError, settings_with
from palimpsest.report.figures import FIGURES, ReportData, gather, label, zone_of
from palimpsest.report.page import page
from palimpsest.report.warnings import sentences
from store.billing.reports import METRICS, Row
from store.billing.time_buckets import Width

console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
out = Console(highlight=False, emoji=False, soft_wrap=True)
# For tables: a line that is too long for the terminal wraps instead of losing columns.
wide = Console(highlight=False, emoji=False, soft_wrap=True, width=1000)

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK = 36  # characters of a sparkline at most
LONGEST_LABEL = 48


def report(
    last: Annotated[str, typer.Option(help="Period, for example 24h, 30d, 12w or 6mo.")] = "30d",
    by: Annotated[
        list[str] | None,
        typer.Option(help="Group by scorer_version, project, model, tag:KEY, …; repeatable."),
    ] = None,
    bucket: Annotated[Width | None, typer.Option(help="Length of the steps over time.")] = None,
    timezone: Annotated[str, typer.Option(help="IANA time zone of days, weeks and months.")] = "UTC",
    tenant: Annotated[str | None, typer.Option(help="Only this tenant; default: all tenants.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write an HTML page with charts.", dir_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    data: Annotated[Path | None, typer.Option(help="Data directory of the local service.")] = None,
) -> None:
    """Print what the service cost, and the memory and money that pruning saved."""
    with reporting_errors():
        zone = zone_of(timezone)
        with transaction(settings_with(data, "DATABASE_URL")) as session:
            found = gather(session, last, by or (), bucket, zone, tenant)
        if html is not None:
            _write(html, page(found, tenant))
    if as_json:
        out.print(json.dumps(as_object(found), indent=2, ensure_ascii=False), markup=False)
    else:
        _print(found)
    if html is not None:
        console.print(f"Wrote {html}", markup=False)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LocalError(f"{path} cannot be written: {error.strerror}.") from None


def _print(found: ReportData) -> None:
    zone, query = found.zone, found.query
    start, end = (moment.astimezone(zone) for moment in (query.start, query.end))
    out.print(f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} {zone.key}, by {found.width}", markup=False)
    if not found.totals:
        out.print("Nothing was billed.")
        return
    table = Table(box=None, pad_edge=False)
    for name in query.group_by or ("",):
        table.add_column(Text(name))
    table.add_column("\ncurrency")
    for figure in FIGURES:
        heading = figure.heading.replace(" ", "\n", 1)
        table.add_column(Text(f"{heading} ({figure.measurement[0]})"), justify="right")
    table.add_column("cost over\ntime")
    if query.group_by:
        for row in found.groups:
            table.add_row(*map(_short, row.group.values()), *_cells(found, row))
    for total in found.totals:
        names = ["all", *[""] * (len(query.group_by) - 1)]
        table.add_row(*names, *_cells(found, total))
    wide.print(table)
    out.print(
        "\n(m) measured, (d) derived, (e) estimated, as docs/explanation/savings.md explains. Amounts in "
        "different currencies are never added. Each line of cost over time is scaled to its own maximum.",
        markup=False,
    )
    for sentence in (*found.unpriced(), *sentences(found.warnings)):
        out.print(sentence, markup=False)


def _short(value: str | None) -> Text:
    shown = label(Row({"": value}, "", {}))
    return Text(shown if len(shown) <= LONGEST_LABEL else shown[: LONGEST_LABEL - 1] + "…")


def _cells(found: ReportData, row: Row) -> list[str]:
    return [
        row.currency,
        *(figure.show(row) for figure in FIGURES),
        sparkline(found.over_time(row, "cost")),
    ]


def sparkline(values: Sequence[Decimal | None]) -> str:
    """One character for a value, or for several if there are many; a space where the value is unknown."""
    many = -(-len(values) // SPARK)
    heights: list[Decimal | None] = []
    for begin in range(0, len(values), many or 1):
        known = [value for value in values[begin : begin + many] if value is not None]
        heights.append(sum(known, Decimal(0)) if known else None)
    highest = max((height for height in heights if height is not None), default=Decimal(0))
    if highest <= 0:
        return "".join(" " if height is None else BLOCKS[0] for height in heights)
    return "".join(
        " " if height is None else BLOCKS[round(height / highest * (len(BLOCKS) - 1))] for height in heights
    )


def as_object(found: ReportData) -> dict[str, Any]:
    """All figures, numbers as decimal strings."""
    query = found.query
    kinds = {name: {"unit": one.unit, "measurement": one.measurement} for name, one in METRICS.items()}
    return {
        "start": query.start.isoformat(),
        "end": query.end.isoformat(),
        "timezone": found.zone.key,
        "bucket": found.width.value,
        "tenant_id": query.tenant_id,
        "group_by": list(query.group_by),
        "metrics": kinds,
        "warnings": [{"code": code, "jobs": jobs} for code, jobs in found.warnings],
        "totals": [_row(row) for row in found.totals],
        "groups": [_row(row) for row in found.groups],
        "buckets": [
            {
                "start": bucket.start.astimezone(found.zone).isoformat(),
                "end": bucket.end.astimezone(found.zone).isoformat(),
                "rows": [_row(row) for row in bucket.rows],
            }
            for bucket in found.buckets
        ],
    }


def _row(row: Row) -> dict[str, Any]:
    shown = {name: None if value is None else f"{value:f}" for name, value in row.values.items()}
    return {"group": row.group, "currency": row.currency, "values": shown}
