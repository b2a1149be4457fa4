"""Documents: the metadata of text blobs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    Index,
    func,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, TenantRow


class Document(TenantRow, Base):
    __tablename__ = "documents"
    __table_args__ = (Index(None, "tenant_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    bytes: Mapped[int]
    media_type: Mapped[str]
    filename: Mapped[str | None]
    blob_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
