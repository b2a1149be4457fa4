"""Queries on a tenant's rows; all of them start here."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from store.errors import NotFound
from store.tables.base import TenantRow

Row = TypeVar("Row", bound=TenantRow)


def scoped(row: type[Row], tenant_id: str) -> Select[Row]:
    """A SELECT that returns the tenant's rows only. Every query on a tenant's behalf starts with it."""
    return select(row).where(row.tenant_id == tenant_id)


def get_scoped(session: Session, row: type[Row], tenant_id: str, **key: Any) -> Row:
    """The tenant's row with these column values. Raises NotFound, also for another tenant's row."""
    found = session.scalars(scoped(row, tenant_id).filter_by(**key)).one_or_none()
    if found is None:
        described = ", ".join(str(value) for value in key.values() if value is not None)
        raise NotFound(f"There is no {_noun(row)} {described}.")
    return found


def _noun(row: type[TenantRow]) -> str:
    """`ApiKey` → `API key`, `Job` → `job`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", row.__name__).lower()
    return re.sub(r"\bapi\b", "API", words)


def get_by_id_or_name(
    session: Session, row: type[Row], tenant_id: str, prefix: str, id_or_name: str, **more: Any
) -> Row:
    """The tenant's row with this id, which starts with the prefix, or with this name. Raises NotFound."""
    if id_or_name.startswith(f"{prefix}_"):
        with suppress(NotFound):  # a name may start like an id
            return get_scoped(session, row, tenant_id, id=id_or_name, **more)
    return get_scoped(session, row, tenant_id, name=id_or_name, **more)
