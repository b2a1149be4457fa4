"""Prompt templates for summaries."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, func
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, TenantRow


class PromptTemplate(TenantRow, Base):
    """A version of a tenant's own summary prompt; versions never change."""

    __tablename__ = "prompt_templates"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[str]
    each_point: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
