"""Money: the ledger, price books, bills and budgets."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Numeric,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, TenantRow


class UsageLine(TenantRow, Base):
    """One line of the append-only ledger. A trigger rejects UPDATE and DELETE."""

    __tablename__ = "usage_ledger"
    __table_args__ = (
        UniqueConstraint("job_id", "attempt", "meter", "seq"),
        CheckConstraint("measurement IN ('measured', 'derived', 'estimated')", name="measurement"),
        Index(None, "tenant_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    attempt: Mapped[int]
    meter: Mapped[str]
    seq: Mapped[int]
    quantity: Mapped[Decimal] = mapped_column(Numeric(38, 6))
    unit: Mapped[str]
    measurement: Mapped[str]
    method_version: Mapped[str]
    waste: Mapped[bool] = mapped_column(server_default=text("false"))  # work that led to no result
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class PriceBookRow(Base):
    """A price book. A trigger rejects UPDATE and DELETE."""

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


class Bill(TenantRow, Base):
    """The ledger lines of one attempt, summed up. Rebuilding it from the ledger gives the same row.

    Each hour of a tenant's stored documents has a bill too, with the job id `storage:<tenant>`.
    """

    __tablename__ = "bills"
    __table_args__ = (
        Index(None, "tenant_id", "booked_at"),
        Index(None, "booked_at"),
        Index(None, "scorer", "booked_at"),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    booked_at: Mapped[datetime]  # when the attempt ended

    # Dimensions
    project: Mapped[str | None]
    api_key_id: Mapped[str | None]
    model: Mapped[str | None]
    model_revision: Mapped[str | None]
    scorer: Mapped[str | None]
    policy: Mapped[str | None]
    reading: Mapped[str | None]  # guided | open; null until it began, and for attempts of before
    priority: Mapped[int | None]
    device_type: Mapped[str | None]
    outcome: Mapped[str]
    tags: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    currency: Mapped[str]
    price_book_id: Mapped[str] = mapped_column(ForeignKey("price_books.id"))

    # Additive figures
    jobs: Mapped[int]  # 1 if this attempt ended its job, else 0; a job that ended in the queue has no bill
    attempts: Mapped[int]  # 1; 0 for storage
    device_seconds: Mapped[Decimal] = _quantity()
    score_seconds: Mapped[Decimal] = _quantity()
    waste_seconds: Mapped[Decimal] = _quantity()
    tokens_document: Mapped[Decimal] = (
        _quantity()
    )  # this and the next: on the attempt that ended the job only
    tokens_kept: Mapped[Decimal] = _quantity()
    answers: Mapped[Decimal] = _quantity()  # this and the next: as the two before
    answers_at_risk: Mapped[Decimal] = _quantity()  # much of what their prompts attend to was evicted
    rereads: Mapped[Decimal] = _quantity()
    tokens_read: Mapped[Decimal] = _quantity()
    tokens_cached: Mapped[Decimal] = _quantity()
    tokens_evicted: Mapped[Decimal] = _quantity()
    tokens_prompt: Mapped[Decimal] = _quantity()
    tokens_generated: Mapped[Decimal] = _quantity()
    kv_byte_seconds: Mapped[Decimal] = _quantity()
    dense_byte_seconds: Mapped[Decimal] = _quantity()
    snapshot_bytes: Mapped[Decimal] = _quantity()
    storage_byte_seconds: Mapped[Decimal] = _quantity()
    cost: Mapped[Decimal | None] = _money()  # null if the book has no price
    waste_cost: Mapped[Decimal | None] = _money()
    allocated_saving: Mapped[Decimal | None] = _money()
    full_cache_cost: Mapped[Decimal | None] = _money()  # null without measured runs to estimate it from
    realised_saving: Mapped[Decimal | None] = _money()

    # Whether nothing had been evicted when it ended: then no saving is claimed or lost
    fits: Mapped[bool] = mapped_column(server_default=text("false"))
    warnings: Mapped[list[str]] = mapped_column(server_default=text("'[]'::jsonb"))  # codes

    # Figures that cannot be added up
    kept_bytes: Mapped[int | None]
    resident_bytes: Mapped[int | None]
    peak_bytes: Mapped[int | None]
    dense_bytes: Mapped[int | None]
    full_cache_devices: Mapped[int | None]  # needed for the weights and a full cache
    scorer_quality: Mapped[Decimal | None] = mapped_column(Numeric(6, 4))

    @property
    def memory_saved(self) -> Decimal:
        """Byte-seconds that a full cache would have held more."""
        return Decimal(0) if self.fits else self.dense_byte_seconds - self.kv_byte_seconds


class Budget(TenantRow, Base):
    """What a tenant, one of its projects or one of its keys may spend in a period, and what happens after."""

    __tablename__ = "budgets"
    __table_args__ = (
        CheckConstraint("project IS NULL OR api_key_id IS NULL", name="scope"),
        CheckConstraint("period IN ('day', 'week', 'month')", name="period"),
        CheckConstraint("action IN ('notify', 'queue', 'reject')", name="action"),
        CheckConstraint("amount > 0", name="amount"),
        # From PostgreSQL 15 on, NULLS NOT DISTINCT would do the same.
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
    project: Mapped[str | None]  # if this and the next are null: everything the tenant spends
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    period: Mapped[str]  # day | week | month
    timezone: Mapped[str]  # IANA name
    amount: Mapped[Decimal] = mapped_column(Numeric(38, 10))
    currency: Mapped[str]
    action: Mapped[str]  # notify | queue | reject
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    crossed_at: Mapped[datetime | None]  # start of the latest period whose crossing was reported
