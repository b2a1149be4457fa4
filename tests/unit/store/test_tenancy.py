"""A rule as a check: a query in the name of a tenant starts at `tenancy.scoped`."""

import ast
from pathlib import Path

import store
from store import tables  # noqa: F401 - fills the metadata
from store.tables.base import Base, TenantRow

TENANT_TABLES = {row.__name__ for row in TenantRow.__subclasses__()}
NO_TENANT_ROWS = {"outbox"}  # it has hints too, which are for workers and belong to no tenant
# Those who act for no tenant: the holder of a lease, the loops, and what finds out whose a key is.
SYSTEM = {
    "billing/bills.py",
    "billing/holds.py",
    "billing/storage.py",
    "bulk/lifecycle.py",
    "bulk/submission.py",
    "jobs/leases.py",
    "jobs/reaper.py",
    "schedules/runs.py",
    "scorers/guardrails.py",
    "tenancy.py",
    "webhooks/deliveries.py",
}
ALLOWED = {
    ("collections/files.py", "to_refresh"),  # the conductor's
    ("tenants/api_keys.py", "authenticate"),
    ("documents/repository.py", "of_job"),
    ("jobs/repository.py", "ended_with_snapshot"),
    ("scorers/outcomes.py", "_bills"),  # these two as the next one
    ("scorers/outcomes.py", "_shadows"),
    ("billing/reports.py", "run"),  # this and the next: the machine's owner may ask about all tenants
    ("billing/reports.py", "warnings"),
}


def unscoped(source: str) -> list[str]:
    """Functions that call `select(…)` on a tenant's table."""
    found = []
    for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "select":
                names = {name.id for name in ast.walk(call) if isinstance(name, ast.Name)}
                if names & TENANT_TABLES:
                    found.append(function.name)
    return found


def test_only_the_named_functions_select_unscoped() -> None:
    folder = Path(store.__file__).parent
    found = {
        (file.relative_to(folder).as_posix(), function)
        for file in folder.rglob("*.py")
        if file.relative_to(folder).as_posix() not in SYSTEM
        for function in unscoped(file.read_text())
    }
    assert found == ALLOWED


def test_every_table_with_a_tenant_is_a_tenant_row() -> None:
    with_tenant = {table.name for table in Base.metadata.tables.values() if "tenant_id" in table.columns}
    assert with_tenant == {row.__tablename__ for row in TenantRow.__subclasses__()} | NO_TENANT_ROWS
    assert len(TENANT_TABLES) == len(with_tenant - NO_TENANT_ROWS)


def test_the_check_sees_a_breach() -> None:
    assert unscoped("def leak(session):\n    return session.scalars(select(Job).where(Job.id == 'x'))") == [
        "leak"
    ]
