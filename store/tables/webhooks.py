"""Webhooks and their deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, TenantRow


class Webhook(TenantRow, Base):
    """A tenant's URL that receives events. Its secret is derived, see `store.webhooks.secret`."""

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "tenant_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    events: Mapped[list[str]]  # types, or families such as job.*; empty = all
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    generation: Mapped[int] = mapped_column(server_default="1")  # of the secret
    rotated_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]  # the first failure after the last success
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]


class Delivery(TenantRow, Base):
    """The delivery of one event to one webhook, with its attempts."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state"),
        Index(None, "webhook_id", "id"),
        Index(
            "ix_webhook_deliveries_due", "webhook_id", "next_at", postgresql_where=text("state = 'pending'")
        ),
        Index(None, "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    message_id: Mapped[str]  # the header webhook-id: the same for all attempts, and for all webhooks
    event_type: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    state: Mapped[str] = mapped_column(server_default="pending")
    attempts: Mapped[int] = mapped_column(
        server_default="0"
    )  # since it was created or last redelivered by hand
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
    lease_until: Mapped[datetime | None]  # a notifier is sending it, and counts as dead after this time
    last_status: Mapped[int | None]  # HTTP status; null without a response
    last_error: Mapped[str | None]
    delivered_at: Mapped[datetime | None]
    log: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))  # {at, status, error, ms}
