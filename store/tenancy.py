"""The one helper through which every query on a tenant's rows goes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from store.errors import NotFound
from store.tables.base import TenantRow

Row = TypeVar("Row", bound=TenantRow)


def scoped(row: type[Row], tenant_id: str) -> Select[Row]:
    """A SELECT of `row` that sees the tenant's rows only. Every query in the name of a tenant starts here."""
    return select(row).where(row.tenant_id == tenant_id)


def get_scoped(session: Session, row: type[Row], tenant_id: str, **key: Any) -> Row:
    """The tenant's row with these column values. Raises NotFound, also when it is another tenant's."""
    found = session.scalars(scoped(row, tenant_id).filter_by(**key)).one_or_none()
    if found is None:
        described = ", ".join(str(value) for value in key.values() if value is not None)
        raise NotFound(f"There is no {row.__name__.lower()} {described}.")
    return found


def get_by_id_or_name(
    session: Session, row: type[Row], tenant_id: str, prefix: str, id_or_name: str, **more: Any
) -> Row:
    """The tenant's row whose id, which begins with the prefix, or whose name this is. Raises NotFound."""
    if id_or_name.startswith(f"{prefix}_"):
        with suppress(NotFound):  # a name may begin like that too
            return get_scoped(session, row, tenant_id, id=id_or_name, **more)
    return get_scoped(session, row, tenant_id, name=id_or_name, **more)
