"""The usage ledger: append-only lines, written when an attempt ends, and their cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

from sqlalchemy import insert
from sqlalchemy.orm import Session

from store.billing import bills, prices
from store.ids import new_id
from store.tables.billing import Bill, UsageLine
from store.tables.job_states import TERMINAL
from store.tables.jobs import Attempt, Job
from store.tenancy import get_scoped, scoped

METHOD = "usage-3"  # how the quantities below are determined; a new method gets a new name
LAST_REPORT = "usage-3:last-report"  # of a lost worker: a lower bound, as of its last report
MICRO = Decimal("0.000001")


class Meter(NamedTuple):
    """One figure of the engine's usage. If it `adds`, attempts are summed; otherwise the maximum counts."""

    name: str
    field: str
    unit: str
    measurement: str
    adds: bool


METERS = (
    Meter("tokens.document", "tokens_document", "token", "measured", False),
    Meter("tokens.read", "tokens_read", "token", "measured", True),
    Meter("tokens.cached", "tokens_cached", "token", "measured", False),
    Meter("tokens.prompt", "tokens_prompt", "token", "measured", True),
    Meter("tokens.generated", "tokens_generated", "token", "measured", True),
    Meter("tokens.kept", "tokens_kept", "token", "measured", False),
    Meter("tokens.evicted", "tokens_evicted", "token", "derived", False),
    Meter("answers", "answers", "answer", "measured", False),
    Meter("answers.at_risk", "answers_at_risk", "answer", "measured", False),
    Meter("rereads", "rereads", "reread", "measured", True),
    Meter("kv_bytes.kept", "kept_bytes", "byte", "derived", False),
    Meter("kv_bytes.resident", "resident_bytes", "byte", "derived", False),
    Meter("kv_bytes.peak", "peak_bytes", "byte", "derived", False),
    Meter("kv_bytes.dense", "dense_bytes", "byte", "derived", False),
    Meter("kv_byte_seconds.actual", "kv_byte_seconds", "byte-second", "derived", True),
    Meter("kv_byte_seconds.dense", "dense_byte_seconds", "byte-second", "derived", True),
    Meter("snapshot_bytes", "snapshot_bytes", "byte", "measured", True),
)


def share(usage: dict[str, Any], start: dict[str, Any]) -> dict[str, Any]:
    """The part of a job's usage after `start`: that of an attempt which resumed from a snapshot.

    Additive figures (seconds, byte-seconds) become differences; the others are unchanged.
    """
    own = dict(usage)
    before = start.get("seconds", {})
    # Until a resumed run has loaded its snapshot, its usage is below `start`: its share is then zero.
    own["seconds"] = {
        phase: max(0, spent - before.get(phase, 0)) for phase, spent in usage.get("seconds", {}).items()
    }
    for meter in METERS:
        if meter.adds and meter.field in usage:
            own[meter.field] = max(0, usage[meter.field] - start.get(meter.field, 0))
    if start.get("tokens_read"):
        own["tokens_cached"] = start["tokens_read"]
    return own


def _quantity(value: Any) -> Decimal:
    return Decimal(str(value)).quantize(MICRO, ROUND_HALF_UP)


def _lines(usage: dict[str, Any], *, additive_only: bool = False) -> Iterator[tuple[str, Decimal, str, str]]:
    for phase, spent in usage.get("seconds", {}).items():
        yield bills.DEVICE_SECONDS + phase, _quantity(spent), "second", "measured"
    for meter in METERS:
        if meter.field in usage and (meter.adds or not additive_only):
            yield meter.name, _quantity(usage[meter.field]), meter.unit, meter.measurement


def record(session: Session, job: Job, attempt: Attempt, *, all_waste: bool = False) -> None:
    """Books an attempt that has ended. Booking it twice violates the ledger's unique key and raises.

    For a lost attempt, work up to its last snapshot is useful to the next one; the rest is waste, with lines
    of its own (`seq` 1). With `all_waste`, as for an attempt that failed its job, everything is.
    """
    if attempt.usage:  # otherwise it ended before its first report
        _write_lines(session, job, attempt, attempt.usage, all_waste=all_waste)
    bills.book_attempt(session, job, attempt)


def _write_lines(
    session: Session, job: Job, attempt: Attempt, usage: dict[str, Any], *, all_waste: bool
) -> None:
    lost = attempt.outcome == "lost"
    base = {"tenant_id": job.tenant_id, "job_id": job.id, "attempt": attempt.attempt}
    base["method_version"] = LAST_REPORT if lost else METHOD
    kept = usage
    rows: list[dict[str, Any]] = []
    if lost:
        # Additive figures are split; the others are as last reported.
        snapshot = attempt.snapshot_usage or {}
        kept = {**usage, "seconds": {p: snapshot.get("seconds", {}).get(p, 0) for p in usage["seconds"]}}
        for meter in METERS:
            if meter.adds and meter.field in usage:
                kept[meter.field] = snapshot.get(meter.field, 0)
        for name, quantity, unit, measurement in _lines(share(usage, snapshot), additive_only=True):
            rows.append(_row(base, name, 1, quantity, unit, measurement, waste=True))
    for name, quantity, unit, measurement in _lines(kept):
        rows.append(_row(base, name, 0, quantity, unit, measurement, waste=all_waste))
    session.execute(insert(UsageLine), rows)


def cost_so_far(attempt: Attempt, book: prices.PriceBook) -> Decimal | None:
    """The cost of a running attempt as last reported; None without a price."""
    lines = [UsageLine(meter=name, quantity=quantity) for name, quantity, _, _ in _lines(attempt.usage or {})]
    return bills.cost(lines, book, attempt.device_type)


def _row(
    base: dict[str, Any], meter: str, seq: int, quantity: Decimal, unit: str, measurement: str, *, waste: bool
) -> dict[str, Any]:
    line = {"meter": meter, "seq": seq, "quantity": quantity, "unit": unit}
    return {**base, **line, "id": new_id("use"), "measurement": measurement, "waste": waste}


@dataclass(frozen=True)
class Figure:
    """A figure of a job's cost, with its provenance."""

    name: str
    quantity: Decimal
    unit: str  # second, byte, byte-second, token, or a currency
    measurement: str  # measured | derived | estimated
    method_version: str


@dataclass(frozen=True)
class Setting:
    """How a document was read, as the engine reports it; `regime` says how it differs from validation."""

    mode: str | None = None
    cache_budget: int | None = None
    interval: int | None = None
    positions: str | None = None
    regime_matches: bool | None = None
    regime: str | None = None
    reading: str | None = None
    rereads: int | None = None


@dataclass(frozen=True)
class PricedLine:
    """A ledger line with its cost; `amount` is None for a meter without a price."""

    attempt: int
    meter: str
    quantity: Decimal
    unit: str
    measurement: str
    method_version: str
    waste: bool
    unit_price: Decimal | None
    priced_unit: str | None
    amount: Decimal | None
    currency: str


@dataclass(frozen=True)
class JobCost:
    """What a job cost and saved. `final` is false while more lines may follow."""

    job_id: str
    final: bool
    currency: str | None  # None before the first attempt
    price_book: str | None  # of the latest attempt; each attempt has its own
    price_per_device_hour: Decimal | None  # in that price book
    setting: Setting | None  # of the latest attempt that started reading
    no_saving: str | None  # why nothing was saved, as the engine says it
    summary: list[Figure]
    lines: list[PricedLine]


def lines(session: Session, tenant_id: str, job_id: str) -> list[UsageLine]:
    """The job's ledger lines, by attempt and meter."""
    order = (UsageLine.attempt, UsageLine.seq, UsageLine.meter)
    return list(
        session.scalars(scoped(UsageLine, tenant_id).where(UsageLine.job_id == job_id).order_by(*order))
    )


def cost(session: Session, tenant_id: str, job_id: str) -> JobCost:
    """The cost of a job, with its ledger lines. Raises NotFound."""
    job = get_scoped(session, Job, tenant_id, id=job_id)
    query = scoped(Attempt, tenant_id).where(Attempt.job_id == job_id).order_by(Attempt.attempt)
    terms = {attempt.attempt: attempt for attempt in session.scalars(query)}
    books = {number: prices.get(session, attempt.price_book_id) for number, attempt in terms.items()}
    made = scoped(Bill, tenant_id).where(Bill.job_id == job_id).order_by(Bill.attempt)
    latest = max(terms, default=0)
    price = books[latest].price_of("device_seconds", terms[latest].device_type) if terms else None
    return JobCost(
        job_id=job_id,
        final=job.state in TERMINAL,
        currency=books[latest].currency if terms else None,
        price_book=books[latest].name if terms else None,
        price_per_device_hour=price.amount if price else None,
        setting=_setting(list(terms.values())),
        no_saving=(terms[latest].usage or {}).get("no_saving") if terms else None,
        summary=list(_summary(list(session.scalars(made)))),
        lines=[
            _priced(line, books[line.attempt], terms[line.attempt].device_type)
            for line in lines(session, tenant_id, job_id)
        ],
    )


def _priced(line: UsageLine, book: prices.PriceBook, device: str) -> PricedLine:
    price = book.price_of(line.meter, device)
    return PricedLine(
        **{name: getattr(line, name) for name in PricedLine.__dataclass_fields__ if hasattr(line, name)},
        unit_price=price.amount if price else None,
        priced_unit=price.unit if price else None,
        amount=book.amount(line.meter, device, line.quantity),
        currency=book.currency,
    )


def _setting(attempts: list[Attempt]) -> Setting | None:
    for attempt in reversed(attempts):
        usage = attempt.usage or {}
        if usage.get("positions") is not None:
            # The library calls its slots `budget`.
            told = usage | {"cache_budget": usage.get("budget")}
            return Setting(**{field.name: told.get(field.name) for field in fields(Setting)})
    return None


def _summary(made: list[Bill]) -> Iterator[Figure]:
    """The figures of a job: sums over its attempts, or maxima of what does not add up."""
    if not made:
        return
    yield Figure("device_seconds", _sum(made, "device_seconds"), "second", "measured", METHOD)
    yield Figure("device_seconds.score", _sum(made, "score_seconds"), "second", "measured", METHOD)
    yield Figure("device_seconds.waste", _sum(made, "waste_seconds"), "second", "measured", METHOD)
    # One figure per currency: amounts in different currencies are never added.
    by_currency = {
        bill.currency: [other for other in made if other.currency == bill.currency] for bill in made
    }
    for currency, mine in sorted(by_currency.items()):
        for name, column, measurement, method in MONEY_FIGURES:
            if any(getattr(bill, column) is not None for bill in mine):
                yield Figure(name, _sum(mine, column), currency, measurement, method)
    peak, dense = _largest(made, "peak_bytes"), _largest(made, "dense_bytes")
    if peak is not None and dense is not None:
        yield Figure("kv_bytes.peak", peak, "byte", "derived", METHOD)
        yield Figure("kv_bytes.dense", dense, "byte", "derived", METHOD)
        least = Decimal(0) if made[-1].fits else dense - peak
        yield Figure("memory_saved.peak", least, "byte", "derived", "savings-2")
        saved = sum((bill.memory_saved for bill in made), Decimal(0))
        yield Figure("memory_saved.byte_seconds", saved, "byte-second", "derived", "savings-2")
    devices, quality = _largest(made, "full_cache_devices"), made[-1].scorer_quality
    if devices is not None:
        yield Figure("full_cache.devices", devices, "device", "estimated", "full-cache-2")
    if quality is not None:
        yield Figure("scorer_quality", quality, "share of full", "measured", "manifest-1")


MONEY_FIGURES = (
    ("cost", "cost", "derived", "cost-2"),
    ("cost.waste", "waste_cost", "derived", "cost-2"),
    ("saving.allocated", "allocated_saving", "estimated", "allocated-2"),
    ("full_cache.cost", "full_cache_cost", "estimated", "full-cache-2"),
    ("saving.realised", "realised_saving", "estimated", "realised-2"),
)


def _sum(made: list[Bill], column: str) -> Decimal:
    return sum((getattr(bill, column) or Decimal(0) for bill in made), Decimal(0))


def _largest(made: list[Bill], column: str) -> Decimal | None:
    return max(
        (Decimal(value) for bill in made if (value := getattr(bill, column)) is not None), default=None
    )
