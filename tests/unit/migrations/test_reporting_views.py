"""The views for tools that read SQL: what they add up to, and who may read them."""

import importlib.util
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session

import migrations
from store.billing import bills
from store.database import Database
from store.jobs import leases
from store.tables.billing import UsageLine
from store.tables.job_states import State
from store.tables.jobs import Job
from tests.support import REPOSITORY
from tests.unit.store.conftest import HOLDER

Submit = Callable[..., Job]
ROOT = REPOSITORY
VIEWS = ("ledger_lines", "job_costs", "daily_costs", "savings")
SUMMED = {
    "job_costs": (
        "device_seconds",
        "tokens_read",
        "cost",
        "waste_cost",
        "realised_saving",
        "allocated_saving",
    ),
    "daily_costs": ("jobs", "attempts", "device_seconds", "tokens_read", "cost", "waste_cost"),
    "savings": ("jobs", "kv_byte_seconds", "allocated_saving", "realised_saving", "cost"),
}


@pytest.fixture
def booked(db: Database, submit: Submit) -> list[str]:
    """Four jobs, one of them lost once and then done, and an hour of storage."""
    ids = []
    for n in range(4):
        ids.append(submit(cache_budget=64, tags={"team": "red"}).id)
        with db.session() as session:
            job = _claim(session)
            usage = {
                "seconds": {"read": 10.5 + n, "score": 2.25},
                "tokens_document": 5000,
                "tokens_read": 5000,
                "kv_byte_seconds": 1e9,
                "dense_byte_seconds": 1e12,
                "dense_bytes": 2**30,
                "budget": 64,
            }
            if n == 0:
                leases.release(session, job.id, job.lease_token or 0, usage=usage, lost=True)
                job = _claim(session)
            token = job.lease_token or 0
            pinned = {"model_revision": "r", "scorer": f"namm@{n % 2}", "scorer_sha256": "ab"}
            leases.pin(session, job.id, token, **pinned, scorer_quality=Decimal("0.9"))
            leases.finalize(session, job.id, token)
            leases.finish(session, job.id, token, State.SUCCEEDED, usage=usage)
    with db.session() as session:
        line = UsageLine(
            id="use_storage",
            tenant_id="ten_default",
            job_id="storage:ten_default",
            attempt=1,
            meter=bills.STORAGE,
            seq=0,
            quantity=Decimal(10**15),
            unit="byte-second",
            measurement="derived",
            method_version="storage-1",
        )
        session.add(line)
        session.flush()
        session.refresh(line)
        bills.rebuild(session)
    return ids


def _claim(session: Session) -> Job:
    [job] = leases.claim(session, ["small"], HOLDER, limit=1, lease_seconds=30)
    return job


@pytest.fixture
def reader(db: Database) -> Iterator[Callable[[str], list[Any]]]:
    """Runs a query as the reader."""

    def ask(query: str) -> list[Any]:
        with db.session() as session:
            session.execute(text("SET LOCAL ROLE palimpsest_reader"))
            return list(session.execute(text(query)).mappings())

    return ask


def test_the_reader_reads_the_views_and_nothing_else(
    reader: Callable[[str], list[Any]], booked: list[str]
) -> None:
    for view in VIEWS:
        assert reader(f"SELECT * FROM reporting.{view}"), view
    for table in ("usage_ledger", "api_keys", "documents", "bills", "jobs", "results", "tenants"):
        with pytest.raises(ProgrammingError, match="permission denied") as raised:
            reader(f"SELECT * FROM {table}")
        assert isinstance(raised.value.orig, InsufficientPrivilege)
    for change in ("DELETE FROM reporting.ledger_lines", "CREATE TABLE reporting.mine (a int)"):
        with pytest.raises(DBAPIError, match=r"permission denied|cannot delete"):
            reader(change)


def test_views_add_up_to_the_bills(
    db: Database, reader: Callable[[str], list[Any]], booked: list[str]
) -> None:
    for view, columns in SUMMED.items():
        found = reader(f"SELECT {', '.join(f'sum({one}) AS {one}' for one in columns)} FROM reporting.{view}")
        where = "" if view == "daily_costs" else "WHERE attempts = 1"
        with db.session() as session:
            query = f"SELECT {', '.join(f'sum({one}) AS {one}' for one in columns)} FROM bills {where}"
            expected = session.execute(text(query)).mappings().one()
        assert dict(found[0]) == dict(expected), view
        assert all(value is not None for value in found[0].values())
    with db.session() as session:
        lines = session.scalars(text("SELECT count(*) FROM usage_ledger")).one()
    found = reader("SELECT count(*) AS n, count(DISTINCT id) AS ids FROM reporting.ledger_lines")
    assert dict(found[0]) == {"n": lines, "ids": lines}


def test_a_job_is_one_row_over_its_attempts(reader: Callable[[str], list[Any]], booked: list[str]) -> None:
    rows = {row["job_id"]: row for row in reader("SELECT * FROM reporting.job_costs")}
    assert sorted(rows) == sorted(booked)
    lost = rows[booked[0]]
    assert (lost["attempts"], lost["ended"], lost["outcome"], lost["scorer"]) == (
        2,
        True,
        "succeeded",
        "namm@0",
    )
    assert lost["waste_seconds"] == Decimal("12.75")
    assert lost["waste_cost"] == Decimal("12.75") * Decimal("0.36") / 3600
    assert (lost["tenant"], lost["project"], lost["tags"]) == ("default", "default", {"team": "red"})
    [kept] = reader("SELECT * FROM reporting.savings WHERE scorer = 'namm@1'")
    assert (kept["jobs"], kept["jobs_with_full_cache_figure"]) == (2, 2)
    assert kept["memory_saved_byte_seconds"] == 2 * (Decimal(10**12) - Decimal(10**9))
    assert round(kept["memory_saved_gib_hours"], 6) == round(
        kept["memory_saved_byte_seconds"] / (1024**3 * 3600), 6
    )


def test_days_are_utc_days(db: Database, reader: Callable[[str], list[Any]], booked: list[str]) -> None:
    with db.session() as session:
        session.execute(text("UPDATE bills SET booked_at = '2026-03-29 23:30:00+00' WHERE attempts = 1"))
    with db.session() as session:
        session.execute(text("SET LOCAL TIME ZONE 'Asia/Tokyo'"))
        days = session.scalars(text("SELECT DISTINCT day FROM reporting.savings")).all()
    assert [str(day) for day in days] == ["2026-03-29"]


def test_every_column_is_described_and_documented(db: Database) -> None:
    page = (ROOT / "docs/how-to/connect-a-bi-tool.md").read_text()
    query = text(
        "SELECT c.relname, a.attname, col_description(c.oid, a.attnum) FROM pg_attribute a "
        "JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'reporting' AND a.attnum > 0"
    )
    with db.session() as session:
        columns = session.execute(query).all()
    assert {view for view, _, _ in columns} == set(VIEWS)
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    for view, column, description in columns:
        assert description, (view, column)
        assert ":" not in column
        assert f"`{column}`" in sections[view], (view, column)


def test_down_and_up_keeps_the_role_and_gives_it_the_views_again(database_url: str) -> None:
    has_role = text("SELECT count(*) FROM pg_roles WHERE rolname = 'palimpsest_reader'")
    has_views = text("SELECT count(*) FROM pg_views WHERE schemaname = 'reporting'")
    may_read = text("SELECT has_table_privilege('palimpsest_reader', 'reporting.savings', 'SELECT')")
    migrations.downgrade(database_url, "0002")
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert (connection.scalar(has_role), connection.scalar(has_views)) == (1, 0)
    migrations.upgrade(database_url)
    with engine.connect() as connection:
        assert connection.scalar(has_views) == len(VIEWS)
        assert connection.scalar(may_read)
    engine.dispose()


def test_a_user_who_may_not_make_roles_can_migrate(db: Database) -> None:
    path = ROOT / "migrations/versions/0004_reporting_views.py"
    spec = importlib.util.spec_from_file_location("reporting_views", path)
    assert spec is not None
    assert spec.loader is not None
    migration = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(migration)
    missing = "palimpsest_reader_of_another_test"
    notices: list[str] = []
    with db.session() as session:
        raw = session.connection().connection.driver_connection
        assert raw is not None
        raw.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        session.execute(text("CREATE ROLE plain_owner_of_a_test"))
        session.execute(text("SET LOCAL ROLE plain_owner_of_a_test"))
        for statement in (migration.CREATE_READER, migration.GRANT_TO_READER):
            session.execute(text(statement.replace("palimpsest_reader", missing)))
        assert session.scalar(text("SELECT 1")) == 1, "the transaction goes on"
        session.rollback()
    assert len(notices) == 1
    assert "could not be made" in notices[0]
