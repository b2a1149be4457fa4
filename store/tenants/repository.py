"""Tenants: created, and found by name."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.errors import NotFound
from store.tables.tenants import Tenant

DEFAULT_TENANT = "ten_default"


def ensure(session: Session, tenant_id: str = DEFAULT_TENANT, name: str = "default") -> str:
    """Creates the tenant unless it exists; returns its id."""
    session.execute(insert(Tenant).values(id=tenant_id, name=name).on_conflict_do_nothing())
    return tenant_id


def named(session: Session, name: str) -> str:
    """The id of the tenant with a name. Raises NotFound."""
    found = session.scalar(select(Tenant.id).where(Tenant.name == name))
    if found is None:
        raise NotFound(f"There is no tenant named '{name}'.")
    return found


def exists(session: Session, tenant_id: str) -> bool:
    """Whether the tenant exists."""
    return session.get(Tenant, tenant_id) is not None
