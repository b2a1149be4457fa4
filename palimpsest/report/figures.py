"""The data of a report: its period, groups, figures, and how each figure was determined."""

import calendar
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import cached_property
from zoneinfo import ZoneInfo

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from palimpsest.machine.data_directory import LocalError
from store import tenants
from store.billing import reports
from store.billing.reports import FITTING, MEMORY_SAVED, REALISED_JOBS, UNPRICED, Bucket, Query, Report, Row
from store.billing.time_buckets import Width

GIB_HOUR = 1024**3 * 3600
MAX_BUCKETS = 1500
LONGEST = timedelta(days=20 * 366)
# The default width: the first whose limit is at least the report's period.
WIDTHS = ((timedelta(days=3), Width.HOUR), (timedelta(days=93), Width.DAY), (timedelta(days=731), Width.WEEK))


def number(value: Decimal | None) -> str:
    """Four significant digits, at least two decimals; `–` if unknown."""
    if value is None:
        return "–"
    decimals = 2 if not value else min(10, max(2, 3 - value.adjusted()))
    return f"{value:,.{decimals}f}".replace("-", "−")


def whole(value: Decimal | None) -> str:
    """A count; `–` if unknown."""
    return "–" if value is None else f"{value:,.0f}".replace("-", "−")


def _realised(row: Row) -> str:
    covered = row.values[REALISED_JOBS]
    if row.values["saving_realised"] is None or not covered:
        return "–"
    return f"{number(row.values['saving_realised'])} ({whole(covered)} job{'' if covered == 1 else 's'})"


def _cost(row: Row) -> str:
    return number(row.values["cost"]) + ("*" if row.values[UNPRICED] else "")


def _memory(row: Row) -> str:
    saved = row.values[MEMORY_SAVED]
    return number(None if saved is None else saved / GIB_HOUR)


def _fitting(row: Row) -> str:
    """The jobs that saved nothing because nothing was evicted, of all."""
    return f"{whole(row.values[FITTING])} of {whole(row.values['jobs'])}"


def _at_risk(row: Row) -> str:
    return f"{whole(row.values['answers_at_risk'])} of {whole(row.values['answers'])}"


def _quality(row: Row) -> str:
    quality = row.values["scorer_quality"]
    return "–" if quality is None else f"{quality:.1%}"


@dataclass(frozen=True)
class Figure:
    """A column of the report."""

    heading: str
    measurement: str  # measured | derived | estimated
    version: str  # of the method, as in docs/explanation/savings.md
    definition: str
    show: Callable[[Row], str]


FIGURES = (
    Figure(
        "jobs",
        "measured",
        "usage-3",
        "Jobs that ended, whatever the outcome.",
        lambda r: whole(r.values["jobs"]),
    ),
    Figure(
        "tokens read",
        "measured",
        "usage-3",
        "Tokens that the model processed while reading documents, including repeats after a lost attempt.",
        lambda r: whole(r.values["tokens_read"]),
    ),
    Figure(
        "device-seconds",
        "measured",
        "usage-3",
        "Wall-clock time on the device in all phases, including waste.",
        lambda r: number(r.values["device_seconds"]),
    ),
    Figure(
        "cost",
        "derived",
        "cost-2",
        "Usage, including document storage, times its price in the price book in effect when the attempt was "
        "claimed. An asterisk marks usage without a price, which no amount includes.",
        _cost,
    ),
    Figure(
        "waste",
        "derived",
        "cost-2",
        "The part of the cost that led to no result: failed attempts, and work of lost attempts after their "
        "last snapshot.",
        lambda r: number(r.values["cost_waste"]),
    ),
    Figure(
        "memory saved, GiB-hours",
        "derived",
        "savings-2",
        "The memory that a full cache would have held minus what the pruned cache held, over time. None for "
        "a document that fits in the cache.",
        _memory,
    ),
    Figure(
        "allocated saving",
        "estimated",
        "allocated-2",
        "Memory saved as a share of the device's memory, at the price of device time: the value of the freed "
        "memory if something else uses it. It is not a reduction of the bill.",
        lambda r: number(r.values["saving_allocated"]),
    ),
    Figure(
        "realised saving",
        "estimated",
        "realised-2",
        "The cost of reading the same documents with a full cache minus that of the useful work, only for "
        "the number of jobs in brackets, for which full-cache measurements exist. May be negative for short "
        "documents; zero for those that fit in the cache.",
        _realised,
    ),
    Figure(
        "scorer quality",
        "measured",
        "manifest-1",
        "Mean score relative to a full cache on the scorers' validation documents, not on these jobs.",
        _quality,
    ),
    Figure(
        "documents that fit",
        "measured",
        "usage-3",
        "Jobs in which nothing was evicted, because the document fits in the cache or the cache keeps "
        "everything. No saving: none is claimed, and none lost.",
        _fitting,
    ),
    Figure(
        "answers at risk",
        "measured",
        "usage-3",
        "Answers of guided readings for which much of what their question attends to had been evicted: they "
        "are wrong more often than others.",
        _at_risk,
    ),
)


def label(row: Row) -> str:
    """A group's name for display. Users choose it, so unprintable characters are replaced."""
    return " · ".join(printable(value) for value in row.group.values()) or "all"


def printable(value: str | None) -> str:
    """A value of a group for display; `(none)` if the bills have none."""
    if value is None:
        return "(none)"
    return "".join(character if character.isprintable() else "�" for character in value) or "(empty)"


def start_of(last: str, end: datetime, zone: tzinfo) -> datetime:
    """The start of a period such as `24h`, `30d`, `12w` or `6mo` that ends at `end`. Raises LocalError.

    Days, weeks and months are those of the time zone.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})(h|d|w|mo)", last, re.ASCII)
    if found is None:
        raise LocalError(
            f"--last takes a number and h, d, w or mo, for example 24h, 30d, 12w or 6mo; got {last!r}."
        )
    count, unit = int(found[1]), found[2]
    days = count * {"h": 1 / 24, "d": 1, "w": 7, "mo": 30.5}[unit]
    if days > LONGEST.days:
        raise LocalError(f"--last {last} exceeds the limit of 20 years.")
    if unit == "h":
        return end - timedelta(hours=count)
    local = end.astimezone(zone)
    if unit != "mo":
        return (local - timedelta(days=days)).astimezone(UTC)
    year, month = divmod(local.year * 12 + local.month - 1 - count, 12)
    day = min(local.day, calendar.monthrange(year, month + 1)[1])
    return local.replace(year=year, month=month + 1, day=day).astimezone(UTC)


def zone_of(name: str) -> ZoneInfo:
    """The time zone of this name. Raises LocalError if it does not exist."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise LocalError(
            f"There is no time zone '{name}'. Use an IANA name, for example Europe/Berlin or UTC."
        ) from None


@dataclass(frozen=True)
class ReportData:
    """A report's numbers, from one snapshot of the database. Rows differ in group or currency."""

    query: Query  # of the buckets
    width: Width
    zone: ZoneInfo
    totals: list[Row]  # one for each currency
    groups: list[Row]  # over the whole period
    buckets: list[Bucket]
    warnings: list[tuple[str, int]]  # code, jobs

    def over_time(self, row: Row, metric: str) -> list[Decimal | None]:
        """A metric in each bucket, for the group and currency of `row`; for all groups if it has none."""
        series: list[Decimal | None] = [None] * len(self.buckets)
        for i, one in self._placed.get((tuple(row.group.values()), row.currency), ()):
            value = one.values[metric]
            if value is not None:
                series[i] = (series[i] or Decimal(0)) + value
        return series

    def unpriced(self) -> list[str]:
        """A sentence for each currency whose price books lack a price that was needed."""
        return [
            f"* {number(seconds)} device-seconds are on devices without a price in their price book "
            f"({total.currency}): no amount includes them."
            for total in self.totals
            if (seconds := total.values[UNPRICED])
        ]

    @cached_property
    def _placed(self) -> dict[tuple[tuple[str | None, ...], str], list[tuple[int, Row]]]:
        """The rows with the index of their bucket, by group and currency; `()` has those of all groups."""
        placed: dict[tuple[tuple[str | None, ...], str], list[tuple[int, Row]]] = {}
        for i, bucket in enumerate(self.buckets):
            for row in bucket.rows:
                for group in {tuple(row.group.values()), ()}:
                    placed.setdefault((group, row.currency), []).append((i, row))
        return placed


def gather(
    session: Session, last: str, by: Sequence[str], width: Width | None, zone: ZoneInfo, tenant: str | None
) -> ReportData:
    """Queries the database; must be the first use of the transaction.

    Raises LocalError, UnknownGroup, and NotFound for an unknown tenant.
    """
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    now: datetime = session.scalars(select(func.now())).one()
    start = start_of(last, now, zone)
    width = width or next((width for longest, width in WIDTHS if now - start <= longest), Width.MONTH)
    tenant_id = None if tenant is None else tenants.named(session, tenant)
    by = tuple(dict.fromkeys(by))

    def ask(group_by: tuple[str, ...], cut: Width | None) -> Report:
        query = Query(tenant_id, start, now, cut, zone, group_by, as_of=now, limit=MAX_BUCKETS)
        return reports.run(session, query)

    over_time = ask(by, width)
    if over_time.next_start is not None:
        raise LocalError(
            f"--last {last} has more than {MAX_BUCKETS:,} buckets of one {width}: choose a larger --bucket."
        )
    [total], [grouped] = ask((), None).buckets, ask(by, None).buckets
    query = Query(tenant_id, start, now, width, zone, by, as_of=now, limit=MAX_BUCKETS)
    warnings = reports.warnings(session, query)
    return ReportData(query, width, zone, total.rows, grouped.rows, over_time.buckets, warnings)
