"""What a report of the owner shows: its stretch of time, its groups, its figures and how each is known."""

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
from store.billing.reports import REALISED_JOBS, UNPRICED, Bucket, Query, Report, Row
from store.billing.time_buckets import Width

GIB_HOUR = 1024**3 * 3600
MOST_BUCKETS = 1500
LONGEST = timedelta(days=20 * 366)
# The first width whose stretch is long enough is the one a report gets that names none.
WIDTHS = ((timedelta(days=3), Width.HOUR), (timedelta(days=93), Width.DAY), (timedelta(days=731), Width.WEEK))


def memory_saved(row: Row) -> Decimal | None:
    """Byte-seconds that a full cache would have held and the pruned one did not."""
    dense, actual = row.values["dense_byte_seconds"], row.values["kv_byte_seconds"]
    return None if dense is None or actual is None else dense - actual


def number(value: Decimal | None) -> str:
    """Four digits that count, at least two decimals; `–` where nothing is known."""
    if value is None:
        return "–"
    decimals = 2 if not value else min(10, max(2, 3 - value.adjusted()))
    return f"{value:,.{decimals}f}".replace("-", "−")


def whole(value: Decimal | None) -> str:
    """A count; `–` where nothing is known."""
    return "–" if value is None else f"{value:,.0f}".replace("-", "−")


def _realised(row: Row) -> str:
    covered = row.values[REALISED_JOBS]
    if row.values["saving_realised"] is None or not covered:
        return "–"
    return f"{number(row.values['saving_realised'])} ({whole(covered)} job{'' if covered == 1 else 's'})"


def _cost(row: Row) -> str:
    return number(row.values["cost"]) + ("*" if row.values[UNPRICED] else "")


def _memory(row: Row) -> str:
    saved = memory_saved(row)
    return number(None if saved is None else saved / GIB_HOUR)


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
        "usage-2",
        "Jobs that ended, however they ended.",
        lambda r: whole(r.values["jobs"]),
    ),
    Figure(
        "tokens read",
        "measured",
        "usage-2",
        "Tokens that went through the model while documents were read, again after a lost attempt.",
        lambda r: whole(r.values["tokens_read"]),
    ),
    Figure(
        "device-seconds",
        "measured",
        "usage-2",
        "Wall-clock time on the device in all phases, useful or not.",
        lambda r: number(r.values["device_seconds"]),
    ),
    Figure(
        "cost",
        "derived",
        "cost-2",
        "What was used times its price in the price book that was in effect when the attempt was claimed; "
        "stored documents too. With * where some time has no price: that time is in no amount.",
        _cost,
    ),
    Figure(
        "waste",
        "derived",
        "cost-2",
        "The part of the cost that no result came of: failed attempts, and what a lost one did after its "
        "last snapshot.",
        lambda r: number(r.values["cost_waste"]),
    ),
    Figure(
        "memory saved, GiB-hours",
        "derived",
        "savings-1",
        "What a full cache would have held less what the pruned one held, over the time it was held.",
        _memory,
    ),
    Figure(
        "allocated saving",
        "estimated",
        "allocated-1",
        "Memory saved as a share of the device's memory, at the price of the device's time: what the room "
        "is worth if something else uses it. Not money that was paid back.",
        lambda r: number(r.values["saving_allocated"]),
    ),
    Figure(
        "realised saving",
        "estimated",
        "realised-1",
        "What reading the same documents with a full cache would have cost, less what the useful work did "
        "cost; only of the jobs in brackets, which measured runs of a full cache say something about. May be "
        "negative for short documents.",
        _realised,
    ),
    Figure(
        "scorer quality",
        "measured",
        "manifest-1",
        "Mean share of a full cache's score that the scorers kept on their validation documents; not "
        "measured on these jobs.",
        _quality,
    ),
)


def label(row: Row) -> str:
    """A group's name, fit to be shown: users choose it, so what cannot be printed is replaced."""
    return " · ".join(printable(value) for value in row.group.values()) or "all"


def printable(value: str | None) -> str:
    """A value of a group; `(none)` where bills have none."""
    if value is None:
        return "(none)"
    return "".join(character if character.isprintable() else "�" for character in value) or "(empty)"


def start_of(last: str, end: datetime, zone: tzinfo) -> datetime:
    """Where `24h`, `30d`, `12w` or `6mo` before a moment begins. Raises LocalError.

    Days, weeks and months are those of the zone's clock.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})(h|d|w|mo)", last, re.ASCII)
    if found is None:
        raise LocalError(
            f"--last takes a number and h, d, w or mo, such as 24h, 30d, 12w or 6mo, not {last!r}."
        )
    count, unit = int(found[1]), found[2]
    days = count * {"h": 1 / 24, "d": 1, "w": 7, "mo": 30.5}[unit]
    if days > LONGEST.days:
        raise LocalError(f"--last {last} is more than 20 years.")
    if unit == "h":
        return end - timedelta(hours=count)
    local = end.astimezone(zone)
    if unit != "mo":
        return (local - timedelta(days=days)).astimezone(UTC)
    year, month = divmod(local.year * 12 + local.month - 1 - count, 12)
    day = min(local.day, calendar.monthrange(year, month + 1)[1])
    return local.replace(year=year, month=month + 1, day=day).astimezone(UTC)


def zone_of(name: str) -> ZoneInfo:
    """Raises LocalError for a name that is no zone's."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise LocalError(f"There is no timezone '{name}'; they are called Europe/Berlin or UTC.") from None


@dataclass(frozen=True)
class Gathered:
    """A report's numbers, all of one moment. Rows differ in their group or in their currency."""

    query: Query  # of the buckets
    width: Width
    zone: ZoneInfo
    totals: list[Row]  # one a currency
    groups: list[Row]  # over the whole time
    buckets: list[Bucket]

    def over_time(self, row: Row, metric: str) -> list[Decimal | None]:
        """A metric in each bucket, of the group and currency of `row`; of all groups if it has none."""
        series: list[Decimal | None] = [None] * len(self.buckets)
        for i, one in self._placed.get((tuple(row.group.values()), row.currency), ()):
            value = one.values[metric]
            if value is not None:
                series[i] = (series[i] or Decimal(0)) + value
        return series

    def unpriced(self) -> list[str]:
        """A sentence for each currency whose price books lack a price."""
        return [
            f"* {number(seconds)} device-seconds ran on devices that their price book ({total.currency}) has "
            "no price for: they are in no amount."
            for total in self.totals
            if (seconds := total.values[UNPRICED])
        ]

    @cached_property
    def _placed(self) -> dict[tuple[tuple[str | None, ...], str], list[tuple[int, Row]]]:
        """The rows with their bucket's number, by group and currency; `()` has those of all groups."""
        placed: dict[tuple[tuple[str | None, ...], str], list[tuple[int, Row]]] = {}
        for i, bucket in enumerate(self.buckets):
            for row in bucket.rows:
                for group in {tuple(row.group.values()), ()}:
                    placed.setdefault((group, row.currency), []).append((i, row))
        return placed


def gather(
    session: Session, last: str, by: Sequence[str], width: Width | None, zone: ZoneInfo, tenant: str | None
) -> Gathered:
    """Asks the database, at the beginning of a transaction.

    Raises LocalError, UnknownGroup and, for a tenant of an unknown name, NotFound.
    """
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    now: datetime = session.scalars(select(func.now())).one()
    start = start_of(last, now, zone)
    width = width or next((width for longest, width in WIDTHS if now - start <= longest), Width.MONTH)
    tenant_id = None if tenant is None else tenants.named(session, tenant)
    by = tuple(dict.fromkeys(by))

    def ask(group_by: tuple[str, ...], cut: Width | None) -> Report:
        query = Query(tenant_id, start, now, cut, zone, group_by, as_of=now, limit=MOST_BUCKETS)
        return reports.run(session, query)

    over_time = ask(by, width)
    if over_time.next_start is not None:
        raise LocalError(
            f"--last {last} has more than {MOST_BUCKETS:,} buckets of a {width}: take wider ones."
        )
    [total], [grouped] = ask((), None).buckets, ask(by, None).buckets
    query = Query(tenant_id, start, now, width, zone, by, as_of=now, limit=MOST_BUCKETS)
    return Gathered(query, width, zone, total.rows, grouped.rows, over_time.buckets)
