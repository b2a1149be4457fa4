"""Charges for stored documents: a ledger line and a bill per tenant and hour, written by the reaper."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.billing import bills, prices
from store.ids import new_id
from store.tables.billing import Bill, UsageLine
from store.tables.documents import Document

HOUR = timedelta(hours=1)
METHOD = "storage-1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCK = 7_041_966_316  # any fixed number: an advisory lock, so that one reaper books at a time

# Byte-seconds of each tenant's documents in each full hour, from the upload of a document.
_BYTE_SECONDS = text("""
SELECT d.tenant_id, h.hour AS begun,
       sum(d.bytes * extract(epoch FROM
           h.hour + interval '1 hour' - greatest(d.created_at, h.hour))) AS quantity
FROM generate_series(CAST(:first AS timestamptz), CAST(:last AS timestamptz), interval '1 hour') AS h(hour)
JOIN documents d ON d.created_at < h.hour + interval '1 hour'
GROUP BY d.tenant_id, h.hour ORDER BY h.hour, d.tenant_id
""")


def accrue(session: Session, most_hours: int = 24) -> int:
    """Books up to `most_hours` full hours since the last booked one; returns the number of bills.

    Hours since 1970 stand in for the attempt number, so that no hour is booked twice.
    """
    session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    now: datetime = session.scalars(select(func.now())).one()
    booked = select(func.max(UsageLine.attempt)).where(UsageLine.meter == bills.STORAGE)
    last = session.scalar(booked)
    oldest = session.scalar(select(func.min(Document.created_at)))
    if last is None and oldest is None:
        return 0
    first = _hour(oldest) if last is None and oldest is not None else _EPOCH + ((last or 0) + 1) * HOUR
    end = min(_hour(now), first + most_hours * HOUR)
    if first >= end:
        return 0
    found = session.execute(_BYTE_SECONDS, {"first": first, "last": end - HOUR})
    lines = [_line(row.tenant_id, row.begun, row.quantity) for row in found]
    if not lines:
        return 0
    book_ids = {hour: session.scalars(select(prices.in_effect(hour))).one() for hour in _hours(lines)}
    made = []
    for row in session.scalars(insert(UsageLine).returning(UsageLine), lines):
        book_id = book_ids[row.created_at]
        made.append(bills.of_storage(row, prices.get(session, book_id), book_id))
    session.execute(insert(Bill), made)
    return len(made)


def _hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _hours(lines: list[dict[str, Any]]) -> set[datetime]:
    return {line["created_at"] for line in lines}


def _line(tenant_id: str, begun: datetime, quantity: Decimal) -> dict[str, Any]:
    return {
        "id": new_id("use"),
        "tenant_id": tenant_id,
        "job_id": f"storage:{tenant_id}",
        "attempt": (begun - _EPOCH) // HOUR,
        "seq": 0,
        "meter": bills.STORAGE,
        "quantity": quantity,
        "unit": "byte-second",
        "measurement": "derived",
        "method_version": METHOD,
        "waste": False,
        # Booked at the end of its hour, however late, so that a report of a day has all its hours.
        "created_at": begun + HOUR - timedelta(microseconds=1),
    }
