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
    project: Mapped[str] = mapped_column(server_default="default")  # the API key's when the job was submitted
    bulk_id: Mapped[str | None]  # the bulk job it belongs to; no foreign key, as bulks point at jobs
    bulk_seq: Mapped[int | None]  # which of its documents; null for the digest

    # The request
    task: Mapped[str]  # ask | summarize | prompt
    prompts: Mapped[list[str]]
    template: Mapped[str | None]  # of a summary: name@version
    summary_prompts: Mapped[int] = mapped_column(
        server_default="0"
    )  # how many of the prompts, from the first, ask for key points
    model: Mapped[str]
    policy: Mapped[str]
    policy_reason: Mapped[str | None]  # why this policy; null for jobs of before there were reasons
    policy_pending: Mapped[bool] = mapped_column(
        server_default=text("false")
    )  # until a worker has claimed it
    # What the version before submits, or has submitted, is read without its prompts.
    reading: Mapped[str] = mapped_column(server_default="open")  # guided | open
    on_risk: Mapped[str] = mapped_column(server_default="report")  # report | reread
    scorer_requested: Mapped[str | None]
    cache_budget: Mapped[int | None]  # slots a KV head keeps; null = the engine decides
    max_output_tokens: Mapped[int]
    temperature: Mapped[float] = mapped_column(server_default="0")
    seed: Mapped[int] = mapped_column(server_default="0")
    priority: Mapped[int] = mapped_column(server_default="0")  # higher first
    deadline_at: Mapped[datetime | None]
    tags: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'::jsonb"))
    max_attempts: Mapped[int] = mapped_column(server_default="3")

    # State and times
    state: Mapped[str] = mapped_column(server_default=State.QUEUED.value)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    queued_at: Mapped[datetime] = mapped_column(server_default=func.now())  # reset when it is requeued
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

    # Lease and attempts
    attempt: Mapped[int] = mapped_column(server_default="0")
    attempts_lost: Mapped[int] = mapped_column(server_default="0")  # attempts whose worker vanished
    refusals: Mapped[int] = mapped_column(
        server_default="0"
    )  # consecutive claims by workers that could not run it
    refused_by: Mapped[str | None]  # the last of those workers
    claimable_at: Mapped[datetime | None]  # after a refusal: not before this time
    lease_owner: Mapped[str | None]
    lease_token: Mapped[int | None]
    lease_expires_at: Mapped[datetime | None]

    # Pinned and reported by the worker
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
    """One claim of a job: the worker, the price book, and the usage as last reported."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[int] = mapped_column(unique=True)
    worker: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str] = mapped_column(
        server_default="running"
    )  # or a final state of the job, `lost`, `released`
    ended_job: Mapped[bool] = mapped_column(server_default=text("false"))
    usage: Mapped[dict[str, Any] | None]  # of this attempt alone, as last reported
    snapshot_usage: Mapped[dict[str, Any] | None]  # the same, at its last snapshot
    device_type: Mapped[str]
    device_memory_bytes: Mapped[int]
    price_book_id: Mapped[str] = mapped_column(ForeignKey("price_books.id"))
    # What it ran with; null until the scorer is pinned
    model_revision: Mapped[str | None]
    scorer: Mapped[str | None]  # name@version
    scorer_sha256: Mapped[str | None]
    scorer_quality: Mapped[Decimal | None] = mapped_column(
        Numeric(6, 4)
    )  # share of the full cache's score: 1 is as good


class Result(TenantRow, Base):
    """A job's answers; `complete` is false if it is unfinished, or expired or was cancelled."""

    __tablename__ = "results"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int]
    complete: Mapped[bool]
    answers: Mapped[list[Any]]
    usage: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
