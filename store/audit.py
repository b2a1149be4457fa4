"""The audit log: what was changed, by whom and when. Rows are only ever added."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from store.tables.audit import AuditEntry

SYSTEM = "system"


def note(session: Session, actor: str, action: str, subject: str, **detail: Any) -> None:
    """Adds an entry in the caller's transaction. `actor` is an API key's id, or SYSTEM."""
    values = {"actor": actor, "action": action, "subject": subject, "detail": detail}
    session.execute(insert(AuditEntry).values(**values))


def entries(
    session: Session, *, subject: str | None = None, before: int | None = None, limit: int = 100
) -> list[AuditEntry]:
    """The newest first; `before` is the id of the previous page's last entry."""
    query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(AuditEntry.subject == subject)
    if before is not None:
        query = query.where(AuditEntry.id < before)
    return list(session.scalars(query))
