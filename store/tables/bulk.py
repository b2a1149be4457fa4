"""Bulk jobs, their items and the parts of long documents."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, TenantRow
from store.tables.bulk_states import ENDED, BulkState

_STATES = ", ".join(f"'{state}'" for state in BulkState)
_ENDED = ", ".join(f"'{state}'" for state in BulkState if state in ENDED)


class Bulk(TenantRow, Base):
    """The same task for every document of a set."""

    __tablename__ = "bulks"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint("strategy IN ('whole', 'map_reduce')", name="strategy"),
        Index(None, "tenant_id", "id"),
        Index(
            "ix_bulks_active",
            "id",
            postgresql_where=text(f"state NOT IN ({_ENDED})"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    project: Mapped[str] = mapped_column(server_default="default")
    collection_id: Mapped[str | None] = mapped_column(ForeignKey("collections.id", ondelete="SET NULL"))
    collection_name: Mapped[str | None]
    ask: Mapped[dict[str, Any]]  # store.jobs.admission.Ask
    deadline_at: Mapped[datetime | None]
    strategy: Mapped[str] = mapped_column(server_default="whole")
    only_changed: Mapped[bool] = mapped_column(server_default=text("false"))
    digest: Mapped[bool] = mapped_column(server_default=text("true"))  # a summary of the summaries
    destination: Mapped[str | None]  # fsspec URL of a folder for the bundle
    # Fixed with its first jobs, so that all its jobs use the same, whatever is added later
    model: Mapped[str | None]
    template: Mapped[str | None]  # name@version
    tags: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'::jsonb"))

    state: Mapped[str] = mapped_column(server_default=BulkState.LISTING.value)
    round: Mapped[int] = mapped_column(server_default="1")  # 1 for the first run, one more for each retry
    digest_document_id: Mapped[str | None] = mapped_column(ForeignKey("documents.id"))
    digest_job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    digest_error: Mapped[str | None]  # why a requested digest is missing
    bundle_key: Mapped[str | None]  # blob folder of the bundle
    delivered_at: Mapped[datetime | None]  # to the destination
    delivery_error: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    listed_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class BulkItem(TenantRow, Base):
    """One document of a bulk job. Once it has a job, its state is the job's."""

    __tablename__ = "bulk_items"
    __table_args__ = (
        UniqueConstraint("bulk_id", "path"),
        CheckConstraint("state IN ('pending', 'mapped', 'submitted', 'failed', 'cancelled')", name="state"),
        Index("ix_bulk_items_pending", "bulk_id", "seq", postgresql_where=text("state = 'pending'")),
        Index(None, "job_id"),
    )

    bulk_id: Mapped[str] = mapped_column(ForeignKey("bulks.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)  # from 0, in the order of the paths
    path: Mapped[str]
    document_id: Mapped[str | None] = mapped_column(ForeignKey("documents.id"))
    sha256: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default="pending")
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    error_code: Mapped[str | None]  # why there is no job
    error_message: Mapped[str | None]


class BulkPart(TenantRow, Base):
    """One part of a document that is read in parts."""

    __tablename__ = "bulk_parts"
    __table_args__ = (
        ForeignKeyConstraint(["bulk_id", "seq"], ["bulk_items.bulk_id", "bulk_items.seq"]),
        Index(None, "job_id"),
    )

    bulk_id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    part: Mapped[int] = mapped_column(primary_key=True)  # from 0
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
