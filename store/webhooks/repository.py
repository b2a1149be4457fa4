"""Webhooks as their tenants see them: URLs that receive events, and the log of deliveries.

Sending and retrying messages is in `store.webhooks.deliveries`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, or_
from sqlalchemy.orm import Session

from store import outbox
from store.errors import Conflict, Invalid
from store.ids import new_id
from store.tables.webhooks import Delivery, Webhook
from store.tenancy import get_scoped, scoped
from store.webhooks import egress, event_types

MOST = 20  # webhooks per tenant: each event becomes as many messages
OVERLAP = timedelta(days=1)  # after a rotation, messages carry the old signature too


class TooManyWebhooks(Conflict):
    """The tenant has the maximum number of webhooks."""

    code = "too_many_webhooks"


class UnknownEvent(Invalid):
    """There is no event of this type."""

    code = "unknown_event"
    field = "events"


class WebhookDisabled(Conflict):
    """Nothing is sent to this webhook until it is enabled."""

    code = "webhook_disabled"


def secret(pepper: bytes, webhook_id: str, generation: int) -> str:
    """The signing secret: `whsec_` and 32 bytes in base64. It is derived on demand and never stored."""
    key = hmac.new(pepper, f"webhook:{webhook_id}:{generation}".encode(), hashlib.sha256).digest()
    return "whsec_" + base64.b64encode(key).decode()


def create(
    session: Session,
    tenant_id: str,
    url: str,
    *,
    description: str = "",
    chosen: Sequence[str] = (),
    allow_loopback: bool = False,
) -> Webhook:
    """Creates a webhook for the chosen types of events, or for all if none is chosen.

    Raises UrlRefused, UnknownEvent, TooManyWebhooks.
    """
    egress.vet_url(url, allow_loopback=allow_loopback)
    for name in chosen:
        if name not in event_types.TYPES | event_types.FAMILIES:
            known = ", ".join(sorted(event_types.TYPES | event_types.FAMILIES))
            raise UnknownEvent(f"Unknown event type '{name}'. Known: {known}.")
    if session.scalars(scoped(Webhook, tenant_id).with_only_columns(func.count())).one() >= MOST:
        raise TooManyWebhooks(f"The limit of {MOST} webhooks is reached; delete one first.")
    row = Webhook(
        id=new_id("whk"), tenant_id=tenant_id, url=url, description=description, events=sorted(set(chosen))
    )
    session.add(row)
    session.flush()
    return row


def list_webhooks(session: Session, tenant_id: str) -> list[Webhook]:
    """The tenant's webhooks, the newest first."""
    return list(session.scalars(scoped(Webhook, tenant_id).order_by(Webhook.id.desc())))


def get(session: Session, tenant_id: str, webhook_id: str) -> Webhook:
    """Raises NotFound."""
    return get_scoped(session, Webhook, tenant_id, id=webhook_id)


def remove(session: Session, tenant_id: str, webhook_id: str) -> None:
    """Deletes a webhook with all its deliveries, including pending ones. Raises NotFound."""
    session.execute(delete(Webhook).where(Webhook.id == get(session, tenant_id, webhook_id).id))


def rotate(session: Session, tenant_id: str, webhook_id: str) -> Webhook:
    """Rotates the secret of a webhook; for a day, messages carry both signatures. Raises NotFound."""
    row = _locked(session, tenant_id, webhook_id)
    row.generation += 1
    row.rotated_at = session.scalars(func.now().select()).one()
    session.flush()
    return row


def enable(session: Session, tenant_id: str, webhook_id: str) -> Webhook:
    """Enables a webhook again; messages that waited are sent too. Raises NotFound."""
    row = _locked(session, tenant_id, webhook_id)
    row.disabled_at = row.disabled_reason = row.failing_since = None
    session.flush()
    outbox.wake_notifiers(session)
    return row


def _locked(session: Session, tenant_id: str, webhook_id: str) -> Webhook:
    row = get(session, tenant_id, webhook_id)
    session.refresh(row, with_for_update={"key_share": True})
    return row


def send_test(session: Session, tenant_id: str, webhook_id: str) -> Delivery:
    """Sends the event `webhook.test`, whatever types the webhook chose. Raises NotFound, WebhookDisabled."""
    row = _enabled(session, tenant_id, webhook_id)
    now = session.scalars(func.now().select()).one()
    made = new_delivery(row, new_id("msg"), message(event_types.TEST, now.isoformat(), {"webhook": row.id}))
    session.add(made)
    session.flush()
    session.refresh(made)
    outbox.wake_notifiers(session)
    return made


def _enabled(session: Session, tenant_id: str, webhook_id: str) -> Webhook:
    row = get(session, tenant_id, webhook_id)
    if row.disabled_at is not None:
        raise WebhookDisabled(
            f"The webhook is disabled; enable it first. It was disabled because: {row.disabled_reason}"
        )
    return row


def message(event: str, timestamp: str, data: dict[str, Any]) -> dict[str, Any]:
    """The payload of a message, as in Standard Webhooks; `timestamp` is the event's, in ISO 8601."""
    return {"type": event, "timestamp": timestamp, "data": data}


def new_delivery(webhook: Webhook, message_id: str, payload: dict[str, Any]) -> Delivery:
    """A message to a webhook, due now; the caller adds it to a session."""
    return Delivery(
        id=new_id("dlv"),
        webhook_id=webhook.id,
        tenant_id=webhook.tenant_id,
        message_id=message_id,
        event_type=payload["type"],
        payload=payload,
    )


def list_deliveries(
    session: Session,
    tenant_id: str,
    webhook_id: str,
    *,
    states: Sequence[str] = (),
    before: str | None = None,
    limit: int = 20,
) -> list[Delivery]:
    """The deliveries of a webhook, newest first; `before` is the last id of the previous page.

    Raises NotFound.
    """
    get(session, tenant_id, webhook_id)
    query = scoped(Delivery, tenant_id).where(Delivery.webhook_id == webhook_id)
    if states:
        query = query.where(Delivery.state.in_(states))
    if before is not None:
        query = query.where(Delivery.id < before)
    return list(session.scalars(query.order_by(Delivery.id.desc()).limit(limit)))


def redeliver(session: Session, tenant_id: str, webhook_id: str, delivery_id: str) -> Delivery:
    """Sends a message again now, with the same message id and as many attempts as a new one.

    One that is being sent right now is left alone. Raises NotFound, WebhookDisabled.
    """
    _enabled(session, tenant_id, webhook_id)
    get_scoped(session, Delivery, tenant_id, id=delivery_id, webhook_id=webhook_id)
    free = or_(Delivery.lease_until.is_(None), Delivery.lease_until <= func.now())
    query = scoped(Delivery, tenant_id).where(Delivery.id == delivery_id, free).with_for_update()
    row = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if row is not None:
        row.state = "pending"
        row.attempts = 0
        row.next_at = session.scalars(func.now().select()).one()
        row.delivered_at = row.lease_until = None
        session.flush()
        outbox.wake_notifiers(session)
    return get_scoped(session, Delivery, tenant_id, id=delivery_id)
