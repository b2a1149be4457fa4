"""Jobs, their attempts and their results: columns, keys and indexes."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Numeric,
    Sequence,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, TenantRow
from store.tables.job_states import State

# Fencing tokens: one sequence for all jobs, so a later claim always holds a larger token.
LEASE_TOKENS = Sequence("lease_tokens", metadata=Base.metadata, data_type=BigInteger)


_STATES = ", ".join(f"'{state}'" for state in State)


class Job(TenantRow, Base):
    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        Index(None, "tenant_id", "id"),
        Index(
            "ix_jobs_claimable",
            "model",
            text("priority DESC"),
            "deadline_at",
            "id",
            postgresql_where=text("state = 'queued' AND held_by_budget IS NULL"),
        ),
        Index(None, "held_by_budget", postgresql_where=text("held_by_budget IS NOT NULL")),
        Index(None, "bulk_id", postgresql_where=text("bulk_id IS NOT NULL")),
        Index(
            "ix_jobs_leases",
            "lease_expires_at",
            postgresql_where=text("state IN ('running', 'finalizing', 'cancelling')"),
        ),
        Index(
            "ix_jobs_deadlines",
            "deadline_at",
            postgresql_where=text("state IN ('queued', 'running', 'finalizing')"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id"))
    project: Mapped[str] = mapped_column(server_default="default")  # the key's, at the time
    bulk_id: Mapped[str | None]  # what it is a part of; no foreign key, as bulks point at jobs
    bulk_seq: Mapped[int | None]  # for which of its documents; null for the digest

    # What was asked
    task: Mapped[str]  # ask | summarize | prompt
    prompts: Mapped[list[str]]
    template: Mapped[str | None]  # of a summary, name@version
    summary_prompts: Mapped[int] = mapped_column(server_default="0")  # the first so many ask for key points
    model: Mapped[str]
    policy: Mapped[str]
    scorer_requested: Mapped[str | None]
    cache_budget: Mapped[int | None]  # slots a KV head keeps; null = the engine decides
    max_output_tokens: Mapped[int]
    temperature: Mapped[float] = mapped_column(server_default="0")
    seed: Mapped[int] = mapped_column(server_default="0")
    priority: Mapped[int] = mapped_column(server_default="0")  # higher first
    deadline_at: Mapped[datetime | None]
    tags: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'::jsonb"))
    max_attempts: Mapped[int] = mapped_column(server_default="3")

    # Where it stands
    state: Mapped[str] = mapped_column(server_default=State.QUEUED.value)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    queued_at: Mapped[datetime] = mapped_column(server_default=func.now())  # the latest time, after a requeue
    running_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    succeeded_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    expired_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
    hinted_at: Mapped[datetime | None]
    held_by_budget: Mapped[str | None]  # the budget that keeps it in the queue; only while it is queued
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]

    # Who holds it
    attempt: Mapped[int] = mapped_column(server_default="0")
    attempts_lost: Mapped[int] = mapped_column(server_default="0")  # those that ended without a word
    refusals: Mapped[int] = mapped_column(
        server_default="0"
    )  # claims in a row by workers that could not do it
    refused_by: Mapped[str | None]  # the latest of them
    claimable_at: Mapped[datetime | None]  # not before, after a refusal
    lease_owner: Mapped[str | None]
    lease_token: Mapped[int | None]
    lease_expires_at: Mapped[datetime | None]

    # What the holder pinned and reports
    scorer: Mapped[str | None]  # name@version
    scorer_sha256: Mapped[str | None]
    model_revision: Mapped[str | None]
    positions: Mapped[str | None]  # absolute | cache-relative
    progress_phase: Mapped[str | None]
    progress_tokens_done: Mapped[int] = mapped_column(server_default="0")
    progress_tokens_total: Mapped[int | None]
    progress_tokens_per_second: Mapped[float | None]
    progress_updated_at: Mapped[datetime | None]
    snapshot_key: Mapped[str | None]
    snapshot_tokens: Mapped[int | None]
    snapshot_scorer_sha256: Mapped[str | None]
    snapshot_model_revision: Mapped[str | None]
    snapshot_at: Mapped[datetime | None]
    snapshot_usage: Mapped[dict[str, Any] | None]  # of all attempts up to it


class Attempt(TenantRow, Base):
    """One claim of a job: who had it, at what price, and what it had used when it was last heard of."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[int] = mapped_column(unique=True)
    worker: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str] = mapped_column(server_default="running")  # or a final state, `lost`, `released`
    ended_job: Mapped[bool] = mapped_column(server_default=text("false"))
    usage: Mapped[dict[str, Any] | None]  # this attempt's own, as of its last report
    snapshot_usage: Mapped[dict[str, Any] | None]  # the same, as of its last snapshot
    device_type: Mapped[str]
    device_memory_bytes: Mapped[int]
    price_book_id: Mapped[str] = mapped_column(ForeignKey("price_books.id"))
    # What it ran with; null until the scorer is pinned
    model_revision: Mapped[str | None]
    scorer: Mapped[str | None]  # name@version
    scorer_sha256: Mapped[str | None]
    scorer_quality: Mapped[Decimal | None] = mapped_column(Numeric(6, 4))  # 1 = all of a full cache's score


class Result(TenantRow, Base):
    """What a job has answered; `complete` is false for what an unfinished, expired or cancelled job left."""

    __tablename__ = "results"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int]
    complete: Mapped[bool]
    answers: Mapped[list[Any]]
    usage: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
