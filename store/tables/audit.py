"""The audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    Index,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base


class AuditEntry(Base):
    """One change and who made it. A trigger rejects UPDATE and DELETE."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "subject", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]  # an API key's id, or `system`
    action: Mapped[str]  # scorer.uploaded, scorer.activated …
    subject: Mapped[str]  # name@version, or a scope
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
