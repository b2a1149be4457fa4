"""Charges: single bills, each with its time span, a quantity and a unit price.

Unit price times quantity is the bill's cost, up to the rounding of the ledger lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from typing import NamedTuple

from sqlalchemy import and_, tuple_
from sqlalchemy.orm import Session

from store.billing import prices
from store.billing.bills import DEVICE_SECONDS, STORAGE
from store.billing.prices import UNITS, PriceBook, Unit
from store.tables.billing import Bill
from store.tables.jobs import Attempt
from store.tables.tenants import Tenant
from store.tenancy import scoped

ATTEMPT = "attempt"  # the unit of a bill without device time, besides those of `prices.UNITS`
STORED = "stored"  # the outcome of an hour of stored documents
FINE = Decimal("1e-18")  # rounding of quantities and average prices
ROUNDING = Decimal("1e-9")  # ten times the rounding of a ledger line


class Place(NamedTuple):
    """The position of a charge in their order."""

    booked_at: datetime
    job_id: str
    attempt: int


@dataclass(frozen=True)
class Charge:
    """A bill as a quantity with a unit price.

    Attributes:
        account: the name of the tenant.
        begun_at: when the attempt began; for stored documents, an hour before the bill.
        quantity: number of `unit`s used.
        unit: a unit of the price book, or ATTEMPT.
        unit_price: the book's, if one price explains the cost; otherwise cost divided by quantity.
        cost: zero if the book has no price.
    """

    bill: Bill
    account: str
    begun_at: datetime
    quantity: Decimal
    unit: str
    unit_price: Decimal
    cost: Decimal

    @property
    def storage(self) -> bool:
        return self.bill.outcome == STORED

    @property
    def place(self) -> Place:
        return Place(self.bill.booked_at, self.bill.job_id, self.bill.attempt)


def page(
    session: Session, tenant_id: str, start: datetime, end: datetime, after: Place | None, limit: int
) -> list[Charge]:
    """The tenant's charges booked in [start, end), in order, beginning after a place."""
    order = (Bill.booked_at, Bill.job_id, Bill.attempt)
    own = and_(
        Attempt.job_id == Bill.job_id, Attempt.attempt == Bill.attempt, Attempt.tenant_id == Bill.tenant_id
    )
    query = scoped(Bill, tenant_id).where(Bill.booked_at >= start, Bill.booked_at < end)
    if after is not None:
        query = query.where(tuple_(*order) > tuple_(*after))
    named = query.join(Tenant, Tenant.id == Bill.tenant_id).outerjoin(Attempt, own)
    rows = named.add_columns(Tenant.name, Attempt.started_at).order_by(*order).limit(limit)
    return [
        _charge(bill, account, started, prices.get(session, bill.price_book_id))
        for bill, account, started in session.execute(rows)
    ]


def _charge(bill: Bill, account: str, started_at: datetime | None, book: PriceBook) -> Charge:
    stored = bill.outcome == STORED
    meter = STORAGE if stored else DEVICE_SECONDS.rstrip(".")
    used = bill.storage_byte_seconds if stored else bill.device_seconds
    price = book.price_of(meter, bill.device_type)
    by_default: Unit = "GiB-month" if stored else "device-hour"
    priced_unit = price.unit if price else by_default
    unit: str = priced_unit
    cost = bill.cost or Decimal(0)
    with localcontext(prec=60):
        quantity = (used / UNITS[priced_unit]).quantize(FINE)
        if bill.cost is None:
            unit_price = Decimal(0)
        elif price and abs(price.amount * quantity - cost) <= ROUNDING:
            unit_price = price.amount
        elif quantity:
            unit_price = (cost / quantity).quantize(FINE)
        else:
            quantity, unit, unit_price = Decimal(1), ATTEMPT, cost
    begun_at = started_at or bill.booked_at - timedelta(hours=1)
    return Charge(bill, account, begun_at, quantity, unit, unit_price, cost)
