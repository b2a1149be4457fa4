"""Collections and their documents."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, TenantRow


class Collection(TenantRow, Base):
    """A named set of documents; with a source, the files found there."""

    __tablename__ = "collections"
    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        Index(None, "refresh_requested_at", postgresql_where=text("refresh_requested_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    source: Mapped[str | None]  # fsspec URL of a folder, without credentials
    glob: Mapped[str | None]  # of paths below the source
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    refresh_requested_at: Mapped[datetime | None]
    refreshed_at: Mapped[datetime | None]
    refresh_error: Mapped[str | None]


class CollectionItem(TenantRow, Base):
    """A document of a collection, or a file of its source, under its path."""

    __tablename__ = "collection_items"

    collection_id: Mapped[str] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    path: Mapped[str] = mapped_column(primary_key=True)  # relative to the source; for an upload its name
    document_id: Mapped[str | None] = mapped_column(ForeignKey("documents.id"))  # the content as last read
    sha256: Mapped[str | None]
    fingerprint: Mapped[
        str | None
    ]  # size and time, or etag, at the last read; unchanged files are not read again
    error_code: Mapped[str | None]  # why it could not be read
    error_message: Mapped[str | None]
    added_at: Mapped[datetime] = mapped_column(server_default=func.now())
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]  # when it was found to be gone
