"""The usage ledger: append-only lines, written with what they are for; and what they come to in money."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

from sqlalchemy import insert
from sqlalchemy.orm import Session

from store.ids import new_id
from store.models import Attempt, Job, UsageLine
from store.states import TERMINAL
from store.tenants import get_scoped, scoped

METHOD = "usage-1"  # how the quantities below come about; changed with the method, never reused
LAST_REPORT = "usage-1:last-report"  # the same, but the worker vanished: a lower bound, as of its last report
MICRO = Decimal("0.000001")


class Meter(NamedTuple):
    """One figure of the engine's usage. `adds` figures are summed over attempts, the others are a maximum."""

    name: str
    field: str
    unit: str
    measurement: str
    adds: bool


METERS = (
    Meter("tokens.document", "tokens_document", "token", "measured", False),
    Meter("tokens.prompt", "tokens_prompt", "token", "measured", False),
    Meter("tokens.generated", "tokens_generated", "token", "measured", False),
    Meter("tokens.kept", "tokens_kept", "token", "measured", False),
    Meter("kv_bytes.kept", "kept_bytes", "byte", "derived", False),
    Meter("kv_bytes.resident", "resident_bytes", "byte", "derived", False),
    Meter("kv_bytes.peak", "peak_bytes", "byte", "derived", False),
    Meter("kv_bytes.dense", "dense_bytes", "byte", "derived", False),
    Meter("kv_byte_seconds.actual", "kv_byte_seconds", "byte-second", "derived", True),
    Meter("kv_byte_seconds.dense", "dense_byte_seconds", "byte-second", "derived", True),
)
DEVICE_SECONDS = "device_seconds."  # one meter a phase: device_seconds.read, device_seconds.score …


def share(usage: dict[str, Any], start: dict[str, Any]) -> dict[str, Any]:
    """The part of a job's usage that came after `start`: what an attempt that resumed a snapshot used itself.

    Figures that add up (seconds, byte-seconds) are differences; the others stay as they are.
    """
    own = dict(usage)
    before = start.get("seconds", {})
    # Until a resumed run has read its snapshot its usage is below `start`: its share is then nothing yet.
    own["seconds"] = {
        phase: max(0, spent - before.get(phase, 0)) for phase, spent in usage.get("seconds", {}).items()
    }
    for meter in METERS:
        if meter.adds and meter.field in usage:
            own[meter.field] = max(0, usage[meter.field] - start.get(meter.field, 0))
    return own


def _quantity(value: Any) -> Decimal:
    return Decimal(str(value)).quantize(MICRO, ROUND_HALF_UP)


def _lines(usage: dict[str, Any], *, additive_only: bool = False) -> Iterator[tuple[str, Decimal, str, str]]:
    for phase, spent in usage.get("seconds", {}).items():
        yield DEVICE_SECONDS + phase, _quantity(spent), "second", "measured"
    for meter in METERS:
        if meter.field in usage and (meter.adds or not additive_only):
            yield meter.name, _quantity(usage[meter.field]), meter.unit, meter.measurement


def record(session: Session, job: Job, attempt: Attempt, *, all_waste: bool = False) -> None:
    """Books an attempt that has ended. A second time breaks the ledger's unique key and raises.

    Of a lost attempt, what it did until its last snapshot serves the next one; the rest is waste and gets
    lines of its own (`seq` 1). Of a failed attempt (`all_waste`), everything is.
    """
    usage = attempt.usage
    if not usage:  # ended before its first report
        return
    lost = attempt.outcome == "lost"
    base = {"tenant_id": job.tenant_id, "job_id": job.id, "attempt": attempt.attempt}
    base["method_version"] = LAST_REPORT if lost else METHOD
    kept = usage
    rows: list[dict[str, Any]] = []
    if lost:
        # The figures that add up are split; those that do not are the state at the last report.
        snapshot = attempt.snapshot_usage or {}
        kept = {**usage, "seconds": {p: snapshot.get("seconds", {}).get(p, 0) for p in usage["seconds"]}}
        for meter in METERS:
            if meter.adds and meter.field in usage:
                kept[meter.field] = snapshot.get(meter.field, 0)
        for name, quantity, unit, measurement in _lines(share(usage, snapshot), additive_only=True):
            rows.append(_row(base, name, 1, quantity, unit, measurement, waste=True))
    for name, quantity, unit, measurement in _lines(kept):
        rows.append(_row(base, name, 0, quantity, unit, measurement, waste=all_waste))
    if rows:
        session.execute(insert(UsageLine), rows)


def _row(
    base: dict[str, Any], meter: str, seq: int, quantity: Decimal, unit: str, measurement: str, *, waste: bool
) -> dict[str, Any]:
    line = {"meter": meter, "seq": seq, "quantity": quantity, "unit": unit}
    return {**base, **line, "id": new_id("use"), "measurement": measurement, "waste": waste}


@dataclass(frozen=True)
class Figure:
    """One line of a bill, with where it comes from."""

    name: str
    quantity: Decimal
    unit: str  # second, byte, byte-second, token, or a currency
    measurement: str  # measured | derived | estimated
    method_version: str


@dataclass(frozen=True)
class Setting:
    """What a document was read with, as the engine reports it; `regime` is a sentence where it departs."""

    mode: str | None = None
    budget: int | None = None
    interval: int | None = None
    positions: str | None = None
    regime_matches: bool | None = None
    regime: str | None = None


@dataclass(frozen=True)
class JobCost:
    """What a job cost and saved. `final` is false while more lines may come."""

    job_id: str
    final: bool
    currency: str | None  # None before the first attempt
    price_per_device_hour: Decimal | None  # of the latest attempt; each attempt is billed at its own
    setting: Setting | None  # of the latest attempt that has begun to read
    summary: list[Figure]
    lines: list[UsageLine]


def lines(session: Session, tenant_id: str, job_id: str) -> list[UsageLine]:
    """The job's ledger, in the order of attempts and meters."""
    order = (UsageLine.attempt, UsageLine.seq, UsageLine.meter)
    return list(
        session.scalars(scoped(UsageLine, tenant_id).where(UsageLine.job_id == job_id).order_by(*order))
    )


def cost(session: Session, tenant_id: str, job_id: str) -> JobCost:
    """Reads the ledger of a job as a bill. Raises NotFound.

    cost = device-seconds × the price at which each attempt was claimed, waste included and also shown alone.
    memory saved = dense-equivalent − actual, at the peaks and as byte-seconds.
    allocated saving = saved byte-seconds as a share of the device's memory × its price: what the memory would
    have cost if devices were rented by the byte. An estimate, and not money that anybody got back.
    """
    job = get_scoped(session, Job, tenant_id, id=job_id)
    rows = lines(session, tenant_id, job_id)
    query = scoped(Attempt, tenant_id).where(Attempt.job_id == job_id).order_by(Attempt.attempt)
    terms = {attempt.attempt: attempt for attempt in session.scalars(query)}
    latest = terms[max(terms)] if terms else None
    return JobCost(
        job_id=job_id,
        final=job.state in TERMINAL,
        currency=latest.currency if latest else None,
        price_per_device_hour=latest.price_per_device_hour if latest else None,
        setting=_setting(list(terms.values())),
        summary=list(_summary(rows, terms)) if rows and latest else [],
        lines=rows,
    )


def _setting(attempts: list[Attempt]) -> Setting | None:
    for attempt in reversed(attempts):
        usage = attempt.usage or {}
        if usage.get("positions") is not None:
            return Setting(**{field.name: usage.get(field.name) for field in fields(Setting)})
    return None


def _summary(rows: list[UsageLine], terms: dict[int, Attempt]) -> Iterator[Figure]:
    seconds = [row for row in rows if row.meter.startswith(DEVICE_SECONDS)]
    wasted = [row for row in seconds if row.waste]
    yield Figure("device_seconds", _sum(seconds), "second", "measured", METHOD)
    yield Figure("device_seconds.waste", _sum(wasted), "second", "measured", METHOD)
    # One figure a currency: amounts in different currencies are never added up.
    for currency in sorted({attempt.currency for attempt in terms.values()}):
        mine = {number: terms[number] for number in terms if terms[number].currency == currency}
        yield Figure("cost", _price(seconds, mine), currency, "derived", "cost-1")
        yield Figure("cost.waste", _price(wasted, mine), currency, "derived", "cost-1")

    peak, dense = _maximum(rows, "kv_bytes.peak"), _maximum(rows, "kv_bytes.dense")
    if peak is not None and dense is not None:
        yield Figure("kv_bytes.peak", peak, "byte", "derived", METHOD)
        yield Figure("kv_bytes.dense", dense, "byte", "derived", METHOD)
        yield Figure("memory_saved.peak", dense - peak, "byte", "derived", "savings-1")
    actual = [row for row in rows if row.meter == "kv_byte_seconds.actual"]
    full = [row for row in rows if row.meter == "kv_byte_seconds.dense"]
    if actual and full:
        yield Figure(
            "memory_saved.byte_seconds", _sum(full) - _sum(actual), "byte-second", "derived", "savings-1"
        )
        for currency in sorted({attempt.currency for attempt in terms.values()}):
            mine = {number: terms[number] for number in terms if terms[number].currency == currency}
            saved = _rent(full, mine) - _rent(actual, mine)
            yield Figure("saving.allocated", saved, currency, "estimated", "allocated-1")


def _sum(rows: list[UsageLine]) -> Decimal:
    return sum((row.quantity for row in rows), Decimal(0))


def _maximum(rows: list[UsageLine], meter: str) -> Decimal | None:
    return max((row.quantity for row in rows if row.meter == meter), default=None)


def _price(rows: list[UsageLine], terms: dict[int, Attempt]) -> Decimal:
    priced = (
        row.quantity * terms[row.attempt].price_per_device_hour / 3600 for row in rows if row.attempt in terms
    )
    return sum(priced, Decimal(0)).quantize(Decimal("1e-10"))


def _rent(rows: list[UsageLine], terms: dict[int, Attempt]) -> Decimal:
    priced = (
        row.quantity
        / terms[row.attempt].device_memory_bytes
        * terms[row.attempt].price_per_device_hour
        / 3600
        for row in rows
        if row.attempt in terms
    )
    return sum(priced, Decimal(0)).quantize(Decimal("1e-10"))
