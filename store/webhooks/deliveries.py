"""Deliveries of messages to webhooks: fanned out, leased, attempted, retried, given up.

Only notifiers call this, for all tenants. Several may run. If one dies, its lease expires and the message is
sent again with the same id: delivery is at least once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, text, true
from sqlalchemy.orm import Session

from store import outbox
from store.ids import new_id
from store.tables.outbox import OutboxRow
from store.tables.webhooks import Delivery, Webhook
from store.webhooks import event_types
from store.webhooks.repository import OVERLAP, message, new_delivery

# Seconds until the next attempt, by how many have failed; the table of Standard Webhooks.
RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.1
MAX_RETRY_AFTER = 86_400.0  # seconds by which a receiver may postpone the next attempt
DISABLE_AFTER = timedelta(days=5)  # without any success, after which the webhook is disabled
MAX_IN_FLIGHT = 2  # messages in flight to one webhook, so that a slow one cannot occupy all senders
MAX_LOG_ENTRIES = 50  # attempts kept per delivery

_DUE = and_(
    Delivery.state == "pending",
    Delivery.next_at <= func.now(),
    or_(Delivery.lease_until.is_(None), Delivery.lease_until <= func.now()),
)


@dataclass(frozen=True)
class Due:
    """A message to send now. `lease_until` also identifies the lease of this notifier."""

    id: str
    webhook_id: str
    message_id: str
    url: str
    payload: dict[str, Any]
    generations: tuple[int, ...]  # of the secrets to sign with, the newest first
    lease_until: datetime


@dataclass(frozen=True)
class AttemptResult:
    """The result of an attempt; `error` is a sentence, None if it was delivered."""

    status: int | None
    error: str | None
    milliseconds: int
    retry_after: float | None = None  # seconds, as requested by the receiver


def fan_out(session: Session, limit: int = 100) -> int:
    """Turns the oldest events into a message for each subscribed webhook; returns the number of events."""
    query = select(OutboxRow).where(OutboxRow.kind == "event").order_by(OutboxRow.id).limit(limit)
    found = list(session.scalars(query.with_for_update(skip_locked=True)))
    tenants = {event.tenant_id for event in found}
    listening = select(Webhook).where(Webhook.tenant_id.in_(tenants), Webhook.disabled_at.is_(None))
    # Locked, so that none is deleted before its messages refer to it.
    webhooks = list(session.scalars(listening.with_for_update(read=True, key_share=True)))
    for event in found:
        data = dict(event.payload)
        kind = data.pop("type")
        if event.job_id is not None:
            data = {"job": event.job_id, **data}
        payload, message_id = message(kind, event.created_at.isoformat(), data), new_id("msg")
        session.add_all(
            new_delivery(webhook, message_id, payload)
            for webhook in webhooks
            # A webhook created after the event does not get it.
            if webhook.tenant_id == event.tenant_id
            and webhook.created_at <= event.created_at
            and event_types.wanted(kind, webhook.events)
        )
    session.execute(delete(OutboxRow).where(OutboxRow.id.in_([event.id for event in found])))
    return len(found)


def lease_due(session: Session, limit: int, lease_seconds: float) -> list[Due]:
    """Leases messages to send now, the longest due first; at most MAX_IN_FLIGHT in flight to one webhook."""
    other = Delivery.__table__.alias()
    flying = select(func.count()).where(
        other.c.webhook_id == Webhook.id, other.c.state == "pending", other.c.lease_until > func.now()
    )
    room = func.greatest(MAX_IN_FLIGHT - flying.correlate(Webhook).scalar_subquery(), 0)
    next_ones = (
        select(Delivery.id, Delivery.next_at)
        .where(Delivery.webhook_id == Webhook.id, _DUE)
        .order_by(Delivery.next_at)
        .limit(room)
        .correlate(Webhook)
        .lateral()
    )
    fair = select(next_ones.c.id).select_from(Webhook).join(next_ones, true())
    fair = fair.where(Webhook.disabled_at.is_(None)).order_by(next_ones.c.next_at).limit(limit)
    query = select(Delivery, Webhook).join(Webhook, Webhook.id == Delivery.webhook_id)
    # Checked again, as another notifier may have leased one since.
    query = query.where(Delivery.id.in_(fair), _DUE).with_for_update(of=Delivery, skip_locked=True)
    now: datetime = session.scalars(func.now().select()).one()
    leased = []
    for delivery, webhook in session.execute(query):
        delivery.lease_until = now + timedelta(seconds=lease_seconds)
        both = webhook.rotated_at is not None and webhook.rotated_at > now - OVERLAP
        generations = (webhook.generation, webhook.generation - 1) if both else (webhook.generation,)
        leased.append(
            Due(
                delivery.id,
                webhook.id,
                delivery.message_id,
                webhook.url,
                delivery.payload,
                generations,
                delivery.lease_until,
            )
        )
    return leased


def seconds_until_due(session: Session, most: float) -> float:
    """Seconds until the next message is due, at most `most`."""
    query = select(func.extract("epoch", func.min(Delivery.next_at) - func.now()))
    found = session.scalars(query.where(Delivery.state == "pending", Delivery.next_at > func.now())).one()
    return most if found is None else min(most, float(found))


def record(session: Session, due: Due, result: AttemptResult) -> bool:
    """Records an attempt and plans the next one. If the lease is lost, does nothing and returns False."""
    # The webhook is locked before its delivery, in the same order as by a deletion.
    query = select(Webhook).where(Webhook.id == due.webhook_id).with_for_update(key_share=True)
    webhook = session.scalars(query).one_or_none()
    mine = and_(Delivery.id == due.id, Delivery.lease_until == due.lease_until, Delivery.state == "pending")
    row = session.scalars(select(Delivery).where(mine).with_for_update()).one_or_none()
    if webhook is None or row is None:
        return False
    now: datetime = session.scalars(func.now().select()).one()
    row.attempts += 1
    row.lease_until = None
    row.last_status, row.last_error = result.status, result.error
    entry = {
        "at": now.isoformat(),
        "status": result.status,
        "error": result.error,
        "ms": result.milliseconds,
    }
    row.log = [*row.log, entry][-MAX_LOG_ENTRIES:]
    if result.error is None:
        row.state, row.delivered_at, webhook.failing_since = "delivered", now, None
    else:
        _failed(webhook, row, result, now)
    outbox.wake_notifiers(session)  # there is now room for the webhook's next message
    return True


def _failed(webhook: Webhook, row: Delivery, result: AttemptResult, now: datetime) -> None:
    webhook.failing_since = webhook.failing_since or now
    if result.status == 410:
        row.state = "failed"
        _disable(webhook, "The receiver answered 410 Gone.", now)
    elif row.attempts > len(RETRY_SECONDS):
        row.state = "failed"
        if webhook.failing_since <= now - DISABLE_AFTER:
            _disable(
                webhook, f"Every delivery has failed since {webhook.failing_since:%Y-%m-%d %H:%M} UTC.", now
            )
    else:
        row.next_at = now + timedelta(seconds=_delay(row.attempts, result.retry_after))


def _delay(failed: int, asked: float | None) -> float:
    planned = RETRY_SECONDS[failed - 1] * random.uniform(1 - JITTER, 1 + JITTER)
    return max(planned, min(asked or 0.0, MAX_RETRY_AFTER))


def _disable(webhook: Webhook, reason: str, now: datetime) -> None:
    if webhook.disabled_at is None:
        webhook.disabled_at, webhook.disabled_reason = now, reason


def forget(session: Session) -> None:
    """Deletes messages older than 30 days, including those pending for a disabled webhook."""
    old = Delivery.created_at < func.now() - text("interval '30 days'")
    session.execute(delete(Delivery).where(old))
