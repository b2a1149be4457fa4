"""Schedules and their runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, TenantRow


class Schedule(TenantRow, Base):
    """A job or bulk job that runs on a cron schedule."""

    __tablename__ = "schedules"
    __table_args__ = (
        CheckConstraint("overlap IN ('skip', 'queue', 'cancel_previous')", name="overlap"),
        CheckConstraint("kind IN ('job', 'bulk')", name="kind"),
        # The name of a deleted schedule may be reused.
        Index(
            "uq_schedules_tenant_id_name",
            "tenant_id",
            "name",
            unique=True,
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index(None, "next_at", postgresql_where=text("next_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    project: Mapped[str] = mapped_column(server_default="default")
    name: Mapped[str]
    cron: Mapped[str]  # five fields
    timezone: Mapped[str]  # IANA name
    kind: Mapped[str]
    template: Mapped[dict[str, Any]]  # store.schedules.Template
    overlap: Mapped[str] = mapped_column(server_default="skip")
    catch_up_seconds: Mapped[int] = mapped_column(server_default="3600")
    jitter_seconds: Mapped[int] = mapped_column(server_default="0")
    max_failures: Mapped[int] = mapped_column(server_default="5")
    failures: Mapped[int] = mapped_column(server_default="0")  # consecutive
    next_at: Mapped[datetime | None]  # null while paused and after deletion
    paused_at: Mapped[datetime | None]
    pause_reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]


class ScheduleRun(TenantRow, Base):
    """One run of a schedule and its outcome."""

    __tablename__ = "schedule_runs"
    __table_args__ = (
        # Each time runs once, however many schedulers there are.
        UniqueConstraint("schedule_id", "scheduled_for"),
        CheckConstraint(
            "state IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled', 'skipped', 'missed')",
            name="state",
        ),
        Index(
            "ix_schedule_runs_open",
            "schedule_id",
            postgresql_where=text("state IN ('waiting', 'running')"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    schedule_id: Mapped[str] = mapped_column(ForeignKey("schedules.id"))
    scheduled_for: Mapped[datetime]
    fires_at: Mapped[datetime]  # with jitter; for a run that waited for another one, when that ended
    manual: Mapped[bool] = mapped_column(server_default=text("false"))
    state: Mapped[str] = mapped_column(server_default="waiting")
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    bulk_id: Mapped[str | None] = mapped_column(ForeignKey("bulks.id"))
    reason_code: Mapped[str | None]  # this and the next: why it is waiting, or ended as it did
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
