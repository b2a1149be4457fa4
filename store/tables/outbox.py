"""The outbox: hints and events waiting to be sent."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Index,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base


class OutboxRow(Base):
    """A message to send once its transaction has committed: a hint for Celery or an event for webhooks."""

    __tablename__ = "outbox"
    __table_args__ = (CheckConstraint("kind IN ('hint', 'event')", name="kind"), Index(None, "kind", "id"))

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    kind: Mapped[str]
    queue: Mapped[str | None]  # of a hint
    tenant_id: Mapped[str | None]  # of an event
    job_id: Mapped[str | None]
    payload: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
