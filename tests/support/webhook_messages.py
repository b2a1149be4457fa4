"""Webhooks, the events they hear of and the messages that come of them."""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store import outbox
from store.database import Database
from store.tables.webhooks import Delivery
from store.webhooks import deliveries
from store.webhooks.deliveries import AttemptResult, Due

URL = "https://example.com/hook"


DELIVERED = AttemptResult(204, None, 12)


FAILED = AttemptResult(500, "It answered 500.", 34)


LEASE = 60.0


def event(db: Database, tenant: str, kind: str = "job.succeeded", **payload: Any) -> None:
    with db.session() as session:
        outbox.add_event(session, tenant, "job_1", kind, payload)


def fan_out(db: Database) -> list[Delivery]:
    with db.session() as session:
        deliveries.fan_out(session)
    with db.session() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.id)))


def take(db: Database, limit: int = 100, lease: float = LEASE) -> list[Due]:
    with db.session() as session:
        return deliveries.lease_due(session, limit, lease)


def record(db: Database, due: Due, outcome: AttemptResult) -> bool:
    with db.session() as session:
        return deliveries.record(session, due, outcome)


def change(db: Database, row: type[Any], **values: Any) -> None:
    with db.session() as session:
        session.execute(update(row).values(**values))


def only(session: Session, row: type[Any]) -> Any:
    return session.scalars(select(row)).one()
