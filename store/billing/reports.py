"""Reports: bills aggregated by time and dimensions.

Figures are sums over bills, except peaks, which are maxima, and scorer quality, which is a mean over jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Text, case, cast, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP, array
from sqlalchemy.orm import Session

from store.billing.time_buckets import Width, cut
from store.errors import Invalid
from store.tables.billing import Bill

TAG = "tag:"  # prefix of a group by a key of the jobs' metadata, as in tag:team

GROUPS: Mapping[str, Any] = {
    "tenant": Bill.tenant_id,
    "project": Bill.project,
    "api_key": Bill.api_key_id,
    "model": Bill.model,
    "model_revision": Bill.model_revision,
    "scorer_version": Bill.scorer,
    "policy": Bill.policy,
    "reading": Bill.reading,
    "priority": Bill.priority,
    "schedule": Bill.tags["schedule_id"].astext,  # set by the scheduler in the jobs' metadata
    "collection": Bill.tags["collection_id"].astext,
    "device": Bill.device_type,
    "outcome": Bill.outcome,
    "price_book": Bill.price_book_id,
}


UNPRICED = "device_seconds_unpriced"  # time on devices without a price
REALISED_JOBS = "jobs_with_full_cache_figure"  # jobs that full_cache_cost and saving_realised cover
MEMORY_SAVED = "memory_saved_byte_seconds"  # of a full cache, minus what was held; 0 if nothing was evicted
FITTING = "jobs_without_eviction"  # jobs whose document fits in the cache, so that nothing can be saved
_NONE = literal(Decimal(0))


class Metric(NamedTuple):
    """A column of a report: its source, unit, provenance and aggregation."""

    of: Any  # a column of a bill, or an expression of several
    unit: str  # `money` is the row's currency
    measurement: str  # measured | derived | estimated
    by: str = "sum"  # sum | max | mean | count


METRICS: Mapping[str, Metric] = {
    "jobs": Metric(Bill.jobs, "job", "measured"),
    "attempts": Metric(Bill.attempts, "attempt", "measured"),
    "device_seconds": Metric(Bill.device_seconds, "second", "measured"),
    "device_seconds_score": Metric(Bill.score_seconds, "second", "measured"),
    "device_seconds_waste": Metric(Bill.waste_seconds, "second", "measured"),
    "tokens_document": Metric(Bill.tokens_document, "token", "measured"),
    "tokens_read": Metric(Bill.tokens_read, "token", "measured"),
    "tokens_cached": Metric(Bill.tokens_cached, "token", "measured"),
    "tokens_kept": Metric(Bill.tokens_kept, "token", "measured"),
    "tokens_evicted": Metric(Bill.tokens_evicted, "token", "derived"),
    "tokens_prompt": Metric(Bill.tokens_prompt, "token", "measured"),
    "tokens_generated": Metric(Bill.tokens_generated, "token", "measured"),
    "kv_byte_seconds": Metric(Bill.kv_byte_seconds, "byte-second", "derived"),
    "dense_byte_seconds": Metric(Bill.dense_byte_seconds, "byte-second", "derived"),
    "kept_bytes_max": Metric(Bill.kept_bytes, "byte", "derived", "max"),
    "resident_bytes_max": Metric(Bill.resident_bytes, "byte", "derived", "max"),
    "peak_bytes_max": Metric(Bill.peak_bytes, "byte", "derived", "max"),
    "dense_bytes_max": Metric(Bill.dense_bytes, "byte", "derived", "max"),
    "snapshot_bytes": Metric(Bill.snapshot_bytes, "byte", "measured"),
    "storage_byte_seconds": Metric(Bill.storage_byte_seconds, "byte-second", "derived"),
    "cost": Metric(Bill.cost, "money", "derived"),
    "cost_waste": Metric(Bill.waste_cost, "money", "derived"),
    "saving_allocated": Metric(Bill.allocated_saving, "money", "estimated"),
    "full_cache_cost": Metric(Bill.full_cache_cost, "money", "estimated"),
    "full_cache_devices_max": Metric(Bill.full_cache_devices, "device", "estimated", "max"),
    "saving_realised": Metric(Bill.realised_saving, "money", "estimated"),
    "scorer_quality": Metric(case((Bill.jobs > 0, Bill.scorer_quality)), "share of full", "measured", "mean"),
    UNPRICED: Metric(
        case((Bill.cost.is_(None), Bill.device_seconds), else_=literal(0)), "second", "measured"
    ),
    REALISED_JOBS: Metric(Bill.full_cache_cost, "job", "derived", "count"),
    MEMORY_SAVED: Metric(
        case((Bill.fits, _NONE), else_=Bill.dense_byte_seconds - Bill.kv_byte_seconds),
        "byte-second",
        "derived",
    ),
    FITTING: Metric(case((Bill.fits, Bill.jobs), else_=0), "job", "derived"),
    "answers": Metric(Bill.answers, "answer", "measured"),
    "answers_at_risk": Metric(Bill.answers_at_risk, "answer", "measured"),
    "rereads": Metric(Bill.rereads, "reread", "measured"),
}
ALL = tuple(METRICS)


MOST_ROWS = 20_000  # per page, which is held in memory


class TooManyRows(Invalid):
    """A report's page would have too many rows."""

    code = "too_many_rows"
    field = "group_by"


class UnknownGroup(Invalid):
    """Bills have no such group."""

    code = "unknown_group"


@dataclass(frozen=True)
class Query:
    """The query of a report.

    Attributes:
        tenant_id: whose bills; None for all tenants, which only the operator may see.
        start, end: timezone-aware; start is inclusive, end exclusive.
        width: of the buckets; None for a single bucket.
        filters: group → allowed values.
        as_of: only bills booked before it count, so that repeating the query gives the same report.
        limit: number of buckets at most.
        metrics: names in METRICS; fewer are faster.
    """

    tenant_id: str | None
    start: datetime
    end: datetime
    width: Width | None = None
    zone: tzinfo = UTC
    group_by: tuple[str, ...] = ()
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    as_of: datetime | None = None
    limit: int = 1500
    metrics: tuple[str, ...] = ALL

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ValueError("a report must start before it ends")


@dataclass(frozen=True)
class Row:
    """One group of a bucket. `values` has every requested metric; None if no bill has it."""

    group: dict[str, str | None]
    currency: str
    values: dict[str, Decimal | None]


@dataclass(frozen=True)
class Bucket:
    """A time span; without rows if nothing was booked in it."""

    start: datetime
    end: datetime
    rows: list[Row]


@dataclass(frozen=True)
class Report:
    """Consecutive buckets. `next_start` is where the next page starts; None on the last page."""

    buckets: list[Bucket]
    as_of: datetime
    next_start: datetime | None


def now(session: Session) -> datetime:
    """The database's present time, by which bills are booked."""
    return session.scalars(select(func.now())).one()


def run(session: Session, query: Query) -> Report:
    """Runs a query. Raises UnknownGroup, TooManyRows."""
    as_of = query.as_of or now(session)
    edges = _edges(query)
    grouped = {name: column_of(name) for name in query.group_by}
    number = func.width_bucket(Bill.booked_at, cast(array(edges[:-1]), ARRAY(TIMESTAMP(timezone=True))))
    statement = (
        select(
            number.label("bucket"),
            *(cast(column, Text).label(f"group_{i}") for i, column in enumerate(grouped.values())),
            Bill.currency,
            *(_aggregate(name).label(name) for name in query.metrics),
        )
        .where(Bill.booked_at >= edges[0], Bill.booked_at < edges[-1], Bill.booked_at < as_of)
        .group_by("bucket", *grouped.values(), Bill.currency)
        .limit(MOST_ROWS + 1)
    )
    if query.tenant_id is not None:
        statement = statement.where(Bill.tenant_id == query.tenant_id)
    for name, values in query.filters.items():
        statement = statement.where(cast(column_of(name), Text).in_(values))
    buckets = [Bucket(start, end, []) for start, end in pairwise(edges)]
    rows = session.execute(statement).all()
    if len(rows) > MOST_ROWS:
        raise TooManyRows(
            f"The report has more than {MOST_ROWS:,} rows; request fewer or wider buckets per page, or "
            "coarser groups."
        )
    for found in rows:
        keys = dict(zip(grouped, found[1 : 1 + len(grouped)], strict=True))
        numbers = found[2 + len(grouped) :]
        figures = {name: _decimal(value) for name, value in zip(query.metrics, numbers, strict=True)}
        buckets[found.bucket - 1].rows.append(Row(keys, found.currency, figures))
    for bucket in buckets:
        bucket.rows.sort(
            key=lambda row: ([(key is None, key or "") for key in row.group.values()], row.currency)
        )
    return Report(buckets, as_of, edges[-1] if edges[-1] < query.end else None)


def warnings(session: Session, query: Query) -> list[tuple[str, int]]:
    """How many jobs of the period ended with each warning: code, jobs; the most frequent first."""
    each = select(func.jsonb_array_elements_text(Bill.warnings).label("code"))
    each = each.where(Bill.booked_at >= query.start, Bill.booked_at < query.end, Bill.jobs > 0)
    if query.tenant_id is not None:
        each = each.where(Bill.tenant_id == query.tenant_id)
    codes = each.subquery()
    counted = select(codes.c.code, func.count().label("jobs")).group_by(codes.c.code)
    rows = session.execute(counted.order_by(func.count().desc(), codes.c.code))
    return [(row.code, row.jobs) for row in rows]


def _edges(query: Query) -> list[datetime]:
    if query.width is None:
        return [query.start, query.end]
    return cut(query.start, query.end, query.width, query.zone, query.limit)


def column_of(name: str) -> ColumnElement[Any]:
    """The expression that bills are grouped by. Raises UnknownGroup, which names the valid groups."""
    if name.startswith(TAG) and len(name) > len(TAG):
        tag: ColumnElement[Any] = Bill.tags[name.removeprefix(TAG)].astext
        return tag
    column: ColumnElement[Any] | None = GROUPS.get(name)
    if column is None:
        valid = ", ".join([*GROUPS, "tag:<key>"])
        raise UnknownGroup(f"Unknown group '{name}'; valid groups: {valid}.")
    return column


def _aggregate(name: str) -> ColumnElement[Any]:
    metric = METRICS[name]
    functions: dict[str, Any] = {"sum": func.sum, "max": func.max, "mean": func.avg, "count": func.count}
    aggregate: ColumnElement[Any] = functions[metric.by](metric.of)
    return aggregate


def _decimal(value: Decimal | int | None) -> Decimal | None:
    return Decimal(value) if isinstance(value, int) else value
