"""The tables. The meaning of each lives with its noun's queries; here are columns, keys and indexes."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    MetaData,
    Numeric,
    Sequence,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from store.states import State


class Base(DeclarativeBase):
    """Constraint names are fixed, so that a migration can name what it changes."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - the shape SQLAlchemy asks for
        str: Text,
        int: BigInteger,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        list[str]: JSONB,
    }


# Fencing tokens: one sequence for all jobs, so a later claim always holds a larger token.
LEASE_TOKENS = Sequence("lease_tokens", metadata=Base.metadata, data_type=BigInteger)


class Tenant(Base):
    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    project: Mapped[str] = mapped_column(server_default="default")  # what its jobs are billed under
    prefix: Mapped[str]  # the first characters, to tell keys apart in a list
    last4: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)  # HMAC-SHA256 of the whole key, hex
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Document(Base):
    __tablename__ = "documents"
    __table_args__ = (Index(None, "tenant_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    sha256: Mapped[str]
    bytes: Mapped[int]
    media_type: Mapped[str]
    filename: Mapped[str | None]
    blob_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


_STATES = ", ".join(f"'{state}'" for state in State)


class Job(Base):
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
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id"))
    project: Mapped[str] = mapped_column(server_default="default")  # the key's, at the time

    # What was asked
    task: Mapped[str]  # ask | summarize | prompt
    prompts: Mapped[list[str]]
    model: Mapped[str]
    policy: Mapped[str]
    scorer_requested: Mapped[str | None]
    budget: Mapped[int | None]
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


class Attempt(Base):
    """One claim of a job: who had it, at what price, and what it had used when it was last heard of."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
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


class Result(Base):
    """What a job has answered; `complete` is false for what an unfinished, expired or cancelled job left."""

    __tablename__ = "results"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    attempt: Mapped[int]
    complete: Mapped[bool]
    answers: Mapped[list[Any]]
    usage: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class UsageLine(Base):
    """One line of the append-only ledger: a trigger refuses UPDATE and DELETE."""

    __tablename__ = "usage_ledger"
    __table_args__ = (
        UniqueConstraint("job_id", "attempt", "meter", "seq"),
        CheckConstraint("measurement IN ('measured', 'derived', 'estimated')", name="measurement"),
        Index(None, "tenant_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str]
    attempt: Mapped[int]
    meter: Mapped[str]
    seq: Mapped[int]
    quantity: Mapped[Decimal] = mapped_column(Numeric(38, 6))
    unit: Mapped[str]
    measurement: Mapped[str]
    method_version: Mapped[str]
    waste: Mapped[bool] = mapped_column(server_default=text("false"))  # work that no result came of
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class PriceBookRow(Base):
    """A price book: a trigger refuses UPDATE and DELETE."""

    __tablename__ = "price_books"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    currency: Mapped[str]
    effective_from: Mapped[datetime] = mapped_column(unique=True)
    note: Mapped[str]
    content: Mapped[dict[str, Any]]  # {"price": […], "full_cache": […]}
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


def _quantity() -> Mapped[Decimal]:
    return mapped_column(Numeric(38, 6), server_default="0")


def _money() -> Mapped[Decimal | None]:
    return mapped_column(Numeric(38, 10))


class Bill(Base):
    """What the ledger's lines of one attempt come to: made with them, and rebuilt from them to the same.

    An hour of a tenant's stored documents has a bill too, under the id `storage:<tenant>`.
    """

    __tablename__ = "bills"
    __table_args__ = (Index(None, "tenant_id", "booked_at"), Index(None, "booked_at"))

    job_id: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    booked_at: Mapped[datetime]  # when the attempt ended

    # What it can be grouped by
    project: Mapped[str | None]
    api_key_id: Mapped[str | None]
    model: Mapped[str | None]
    model_revision: Mapped[str | None]
    scorer: Mapped[str | None]
    policy: Mapped[str | None]
    priority: Mapped[int | None]
    device_type: Mapped[str | None]
    outcome: Mapped[str]
    tags: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    currency: Mapped[str]
    price_book_id: Mapped[str] = mapped_column(ForeignKey("price_books.id"))

    # What adds up
    jobs: Mapped[int]  # 1 where this attempt ended its job, else 0; none for one that ended in the queue
    attempts: Mapped[int]  # 1; 0 for storage
    device_seconds: Mapped[Decimal] = _quantity()
    score_seconds: Mapped[Decimal] = _quantity()
    waste_seconds: Mapped[Decimal] = _quantity()
    tokens_document: Mapped[Decimal] = _quantity()  # this and the next: of the attempt that ended the job
    tokens_kept: Mapped[Decimal] = _quantity()
    tokens_read: Mapped[Decimal] = _quantity()
    tokens_cached: Mapped[Decimal] = _quantity()
    tokens_evicted: Mapped[Decimal] = _quantity()
    tokens_prompt: Mapped[Decimal] = _quantity()
    tokens_generated: Mapped[Decimal] = _quantity()
    kv_byte_seconds: Mapped[Decimal] = _quantity()
    dense_byte_seconds: Mapped[Decimal] = _quantity()
    snapshot_bytes: Mapped[Decimal] = _quantity()
    storage_byte_seconds: Mapped[Decimal] = _quantity()
    cost: Mapped[Decimal | None] = _money()  # null where the book has no price
    waste_cost: Mapped[Decimal | None] = _money()
    allocated_saving: Mapped[Decimal | None] = _money()
    full_cache_cost: Mapped[Decimal | None] = _money()  # null where no measured runs say
    realised_saving: Mapped[Decimal | None] = _money()

    # What does not
    kept_bytes: Mapped[int | None]
    resident_bytes: Mapped[int | None]
    peak_bytes: Mapped[int | None]
    dense_bytes: Mapped[int | None]
    full_cache_devices: Mapped[int | None]  # that weights and a full cache would have needed
    scorer_quality: Mapped[Decimal | None] = mapped_column(Numeric(6, 4))


class Budget(Base):
    """What a tenant, one of its projects or one of its keys may spend in a period, and what happens then."""

    __tablename__ = "budgets"
    __table_args__ = (
        CheckConstraint("project IS NULL OR api_key_id IS NULL", name="scope"),
        CheckConstraint("period IN ('day', 'week', 'month')", name="period"),
        CheckConstraint("action IN ('notify', 'queue', 'reject')", name="action"),
        CheckConstraint("amount > 0", name="amount"),
        # NULLS NOT DISTINCT would say the same from PostgreSQL 15 on.
        Index(
            "uq_budgets_scope_period_action",
            "tenant_id",
            text("coalesce(project, '')"),
            text("coalesce(api_key_id, '')"),
            "period",
            "action",
            unique=True,
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    project: Mapped[str | None]  # this and the next null: all that the tenant spends
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    period: Mapped[str]  # day | week | month
    timezone: Mapped[str]  # IANA name
    amount: Mapped[Decimal] = mapped_column(Numeric(38, 10))
    currency: Mapped[str]
    action: Mapped[str]  # notify | queue | reject
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    crossed_at: Mapped[datetime | None]  # the beginning of the latest period it was said to be crossed in


class OutboxRow(Base):
    """What leaves the database once its transaction has committed: hints for Celery, events for webhooks."""

    __tablename__ = "outbox"
    __table_args__ = (CheckConstraint("kind IN ('hint', 'event')", name="kind"), Index(None, "kind", "id"))

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    kind: Mapped[str]
    queue: Mapped[str | None]  # of a hint
    tenant_id: Mapped[str | None]  # of an event
    job_id: Mapped[str | None]
    payload: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Worker(Base):
    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    device_type: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())
    stopping_at: Mapped[datetime | None]  # told to stop: gives its jobs back and claims no more
    stopped_at: Mapped[datetime | None]


class WorkerModel(Base):
    __tablename__ = "worker_models"

    worker_id: Mapped[str] = mapped_column(ForeignKey("workers.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True, index=True)
    revision: Mapped[str | None]
    window: Mapped[int | None]
    vocab_size: Mapped[int | None]
    dense_bytes_per_token: Mapped[int | None]
    tokenizer_sha256: Mapped[str | None]
    policies: Mapped[list[str] | None]  # null until the model is loaded
    scorers: Mapped[list[Any] | None]  # [{"name", "version", "sha256"}], null until the model is loaded
    loaded_at: Mapped[datetime | None]
    error: Mapped[str | None]  # why it could not be loaded, the last time it was tried


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    status: Mapped[int | None]
    response: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(index=True)
