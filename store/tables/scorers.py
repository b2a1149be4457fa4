"""The scorer registry: versions, activations, shadow runs, and versions loaded by workers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Sequence,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, TenantRow

# Drawn under a lock, so that a later activation has a larger number whatever the hosts' clocks say.
ACTIVATION_NUMBERS = Sequence("activation_numbers", metadata=Base.metadata, data_type=BigInteger)


class ScorerVersion(Base):
    """A version of a scorer; its files and its manifest never change."""

    __tablename__ = "scorer_versions"
    __table_args__ = (
        UniqueConstraint("name", "version"),
        CheckConstraint("state IN ('uploaded', 'verified', 'active', 'retired', 'rejected')", name="state"),
        Index("ix_scorer_versions_uploaded", "created_at", postgresql_where=text("state = 'uploaded'")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="uploaded")
    kind: Mapped[str]  # safetensors, or reference: a .pt that verification converts
    upload_key: Mapped[str]  # blob of what was uploaded
    upload_sha256: Mapped[str]
    # Set by verification; null before that and for rejected versions.
    blob_key: Mapped[str | None]  # folder of scorer.safetensors and manifest.json
    sha256: Mapped[str | None]  # of scorer.safetensors
    manifest: Mapped[dict[str, Any] | None]
    evaluation: Mapped[dict[str, Any] | None]  # output of `namm evaluate`, if attached
    reason: Mapped[str | None]  # why it was rejected, or its verification postponed
    attempts: Mapped[int] = mapped_column(server_default="0")  # verifications started
    checking_until: Mapped[datetime | None]  # being verified, or postponed, until then
    hinted_at: Mapped[datetime] = mapped_column(
        server_default=func.now()
    )  # when workers were last asked to verify it
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    checked_at: Mapped[datetime | None]  # verified or rejected


class Activation(Base):
    """A period in which a version serves a scope. At most one per scope and alias is open."""

    __tablename__ = "scorer_activations"
    __table_args__ = (
        CheckConstraint("alias IN ('stable', 'canary')", name="alias"),
        CheckConstraint("percent BETWEEN 0 AND 100 AND shadow_percent BETWEEN 0 AND 100", name="percent"),
        Index(
            "uq_scorer_activations_open",
            "name",
            "scope",
            "alias",
            unique=True,
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index(None, "version_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(
        unique=True, server_default=ACTIVATION_NUMBERS.next_value()
    )  # orders activations
    name: Mapped[str]  # of the scorer
    scope: Mapped[str]  # global, model:<name>, tenant:<id> or schedule:<id>
    alias: Mapped[str]
    version_id: Mapped[str] = mapped_column(ForeignKey("scorer_versions.id"))
    percent: Mapped[int] = mapped_column(server_default="100")  # of a canary: share of jobs it answers
    shadow_percent: Mapped[int] = mapped_column(server_default="0")  # share of jobs it shadows
    bounds: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))  # of a canary
    activated_by: Mapped[str]
    activated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    ended_by: Mapped[str | None]
    ended_reason: Mapped[str | None]
    rolled_back: Mapped[bool] = mapped_column(server_default=text("false"))  # ended because it was bad


class ShadowRun(TenantRow, Base):
    """A job that a canary read in the shadow of the version that answered it."""

    __tablename__ = "scorer_shadow_runs"
    __table_args__ = (CheckConstraint("outcome IN ('answered', 'broke', 'not_made')", name="outcome"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("scorer_versions.id"), primary_key=True)
    stable: Mapped[str]  # name@version that answered
    outcome: Mapped[str]
    answers: Mapped[int]
    agreed: Mapped[int]  # identical answers, character for character
    error: Mapped[str | None]
    device_seconds: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class WorkerScorer(Base):
    """A version that a live worker has loaded, or why loading it failed."""

    __tablename__ = "worker_scorers"

    worker_id: Mapped[str] = mapped_column(ForeignKey("workers.id", ondelete="CASCADE"), primary_key=True)
    scorer: Mapped[str] = mapped_column(primary_key=True)  # name@version
    sha256: Mapped[str | None]
    loaded_at: Mapped[datetime] = mapped_column(server_default=func.now())
    used_at: Mapped[datetime] = mapped_column(server_default=func.now())
    error: Mapped[str | None]
