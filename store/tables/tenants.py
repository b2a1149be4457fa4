"""Tenants and their API keys."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    ForeignKey,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, TenantRow


class Tenant(Base):
    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(TenantRow, Base):
    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    project: Mapped[str] = mapped_column(server_default="default")  # its jobs are billed to this project
    admin: Mapped[bool] = mapped_column(server_default=text("false"))  # may change scorers for all tenants
    prefix: Mapped[str]  # the first characters, to tell keys apart in a list
    last4: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)  # HMAC-SHA256 of the whole key, hex
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
