"""Workers and the models they serve."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ForeignKey,
    func,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base


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
    default_policy: Mapped[str | None]  # this and the next: null until the model is loaded
    default_policy_reason: Mapped[str | None]
    loaded_at: Mapped[datetime | None]
    error: Mapped[str | None]  # why the last attempt to load it failed
