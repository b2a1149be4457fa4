"""The outbox: messages written in the transaction that causes them, so that both happen or neither."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from sqlalchemy import Engine, delete, insert, select, text
from sqlalchemy.orm import Session

from store.tables.outbox import OutboxRow

CHANNEL = "palimpsest_outbox"
EVENTS = "palimpsest_events"  # the channel that wakes notifiers
SCORERS = "scorers"  # the queue for scorer verification, which every worker listens to


class Hint(NamedTuple):
    """A wake-up call for the workers of a queue."""

    id: int
    queue: str
    job_id: str | None


def queue_of(model: str) -> str:
    """The Celery queue of a model. Names that clash only share wake-ups: claims use the full name."""
    return "jobs." + re.sub(r"[^A-Za-z0-9._-]", "_", model)


def add_hint(session: Session, model: str, job_id: str | None = None) -> None:
    """Asks the relay to wake the workers of `model` once this transaction has committed."""
    session.execute(insert(OutboxRow).values(kind="hint", queue=queue_of(model), job_id=job_id))
    # Delivered on commit; Postgres merges equal notifications of one transaction.
    session.execute(text(f"NOTIFY {CHANNEL}"))


def add_scorer_hint(session: Session) -> None:
    """Asks the relay to wake a worker of any model, to verify scorers."""
    session.execute(insert(OutboxRow).values(kind="hint", queue=SCORERS))
    session.execute(text(f"NOTIFY {CHANNEL}"))


def add_event(
    session: Session, tenant_id: str, job_id: str | None, kind: str, payload: dict[str, Any]
) -> None:
    """Records an event, of a job if there is one, for a notifier to send to the tenant's webhooks.

    `kind` is one of `store.webhooks.event_types.TYPES`; `payload` and the job's id become the `data` of the
    message.
    """
    values = {"kind": "event", "tenant_id": tenant_id, "job_id": job_id, "payload": {"type": kind, **payload}}
    session.execute(insert(OutboxRow).values(values))
    wake_notifiers(session)


def wake_notifiers(session: Session) -> None:
    """Wakes the notifiers once this transaction has committed: there may be something to send."""
    session.execute(text(f"NOTIFY {EVENTS}"))


def lock_hints(session: Session, limit: int = 100) -> list[Hint]:
    """The oldest hints, locked until the transaction ends; other relays skip them."""
    chosen = (
        select(OutboxRow.id, OutboxRow.queue, OutboxRow.job_id)
        .where(OutboxRow.kind == "hint")
        .order_by(OutboxRow.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [Hint(row.id, row.queue or "", row.job_id) for row in session.execute(chosen)]


def drop(session: Session, hints: list[Hint]) -> None:
    """Removes hints that were sent."""
    session.execute(delete(OutboxRow).where(OutboxRow.id.in_([hint.id for hint in hints])))


def listen(engine: Engine, channel: str = CHANNEL) -> psycopg.Connection[Any]:
    """A dedicated connection that listens on a channel; the caller closes it."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg.connect(url, autocommit=True)
    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    return connection


def wait(connection: psycopg.Connection[Any], seconds: float) -> bool:
    """Waits for a notification; False if none came in time."""
    return any(True for _ in connection.notifies(timeout=seconds, stop_after=1))
