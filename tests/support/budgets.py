"""Budgets, bills that spend from them, and the events that tell of it."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from store.billing import budgets
from store.billing.budgets import Action, NewBudget, Period
from store.database import Database
from store.tables.billing import Bill, Budget
from store.tables.outbox import OutboxRow

NOON = datetime(2027, 3, 17, 12, tzinfo=UTC)  # a Wednesday


def bill(session: Session, tenant: str, cost: str | None, at: datetime = NOON, **columns: object) -> None:
    """Books an attempt of a job that is known by its bill only."""
    number = session.scalars(select(Bill.attempt).order_by(Bill.attempt.desc()).limit(1)).first() or 0
    terms: dict[str, Any] = {"currency": "USD", "price_book_id": "prc_placeholder", "outcome": "succeeded"}
    terms |= {"jobs": 1, "attempts": 1, "tenant_id": tenant, "booked_at": at, "cost": cost}
    session.execute(insert(Bill).values(job_id="job_x", attempt=number + 1, **{**terms, **columns}))


def new_budget(session: Session, tenant: str, amount: str = "10", **changes: Any) -> Budget:
    asked = {"amount": Decimal(amount), "action": Action.NOTIFY, "period": Period.MONTH}
    return budgets.create(session, tenant, NewBudget(**{**asked, **changes}))


def events(db: Database) -> list[dict[str, Any]]:
    with db.session() as session:
        rows = session.scalars(select(OutboxRow).where(OutboxRow.kind == "event").order_by(OutboxRow.id))
        return [row.payload for row in rows if row.payload["type"] == "budget.crossed"]
