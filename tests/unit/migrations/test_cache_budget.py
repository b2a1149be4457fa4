"""A database from before `cache_budget`, with jobs, bulk jobs, schedules and prices, goes on after 0010."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select, text

import migrations
from store import bulk
from store.billing import ledger, prices
from store.database import Database
from store.jobs import leases
from store.schedules import Template
from store.tables.billing import Bill, PriceBookRow
from store.tables.bulk import Bulk
from store.tables.job_states import State
from store.tables.jobs import Job
from store.tables.schedules import Schedule
from tests.conftest import api_on
from tests.unit.store.conftest import CENTS, HOLDER

ROWS = Path(__file__).with_name("data") / "0009.sql"
TENANT = "ten_default"
DONE, RUNNING = 5, 4  # priorities of the two jobs that a worker has had


@pytest.fixture
def old(empty_database_url: str) -> str:
    """URL of a database of schema 0009 with its rows."""
    migrations.upgrade(empty_database_url, "0009")
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(ROWS.read_text().replace("%", "%%"))
        connection.execute(text("UPDATE idempotency_keys SET expires_at = now() + interval '1 hour'"))
    engine.dispose()
    return empty_database_url


@pytest.fixture
def db(old: str) -> Iterator[Database]:
    migrations.upgrade(old)
    database = Database(old)
    yield database
    database.close()


def test_jobs_keep_their_slots_and_their_bills(db: Database) -> None:
    with db.session() as session:
        found = {job.priority: job for job in session.scalars(select(Job).where(Job.priority > 0))}
        waiting = session.scalars(select(Job.cache_budget).where(Job.state == "queued").order_by(Job.id))
        assert list(waiting) == [64, None]
        assert (found[DONE].cache_budget, found[RUNNING].cache_budget) == (64, 128)
        setting = ledger.cost(session, TENANT, found[DONE].id).setting
        assert setting is not None
        assert setting.cache_budget == 64


def test_a_price_book_of_before_still_prices_a_full_cache(db: Database) -> None:
    with db.session() as session:
        [job] = leases.claim(session, ["bundled"], HOLDER, limit=1, lease_seconds=30)
        assert job.cache_budget == 64
        token = job.lease_token or 0
        leases.finalize(session, job.id, token)
        usage = {"seconds": {"read": 2.0}, "tokens_document": 220, "budget": 64, "dense_bytes": 4096}
        leases.finish(session, job.id, token, State.SUCCEEDED, usage=usage)
        bill = session.scalars(select(Bill).where(Bill.job_id == job.id)).one()
    # Reading took 2 s; the book says 1.5 + 0.001 · 220 times as long with a full cache, at 0.20 an hour.
    assert bill.full_cache_cost == round(Decimal("0.20") / 3600 * 2 * Decimal("1.72"), 10)


def test_a_book_loaded_after_the_upgrade_has_the_name_that_the_version_before_reads(db: Database) -> None:
    with db.session() as session:
        book_id = prices.add(session, CENTS)
        content = session.scalars(select(PriceBookRow.content).where(PriceBookRow.id == book_id)).one()
        assert content["full_cache"][0]["budget"] == 64
        assert "cache_budget" not in content["full_cache"][0]
        assert prices.get(session, book_id).full_cache == CENTS.full_cache


def test_bulk_jobs_and_schedules_ask_for_the_same_slots(db: Database) -> None:
    with db.session() as session:
        [work] = session.scalars(select(Bulk))
        assert bulk.ask_from_json(work.ask).cache_budget == 96
        asked = {row.name: Template.from_json(row.template).ask for row in session.scalars(select(Schedule))}
    assert {name: ask.cache_budget for name, ask in asked.items()} == {"nightly": 48, "weekly": 32}


def test_a_request_stored_by_the_version_before_after_the_migration_is_understood(db: Database) -> None:
    with db.session() as session:
        [work] = session.scalars(select(Bulk))
        stored = {name: value for name, value in work.ask.items() if name != "cache_budget"}
    assert bulk.ask_from_json({**stored, "budget": 96}).cache_budget == 96


def test_an_idempotency_key_of_before_gets_its_answer(old: str, redis_url: str, tmp_path: Path) -> None:
    migrations.upgrade(old)
    with api_on(old, redis_url, tmp_path) as api, api.database.session() as session:
        [first] = session.scalars(select(Job).where(Job.priority == 0, Job.cache_budget == 64))
        body = {
            "document_id": first.document_id,
            "questions": first.prompts,
            "budget": 64,
            "policy": "window",
        }
        with api.client() as client:
            again = client.post("/v1/jobs", json=body, headers={"idempotency-key": "once"})
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert (again.json()["id"], again.json()["cache_budget"]) == (first.id, 64)


def test_down_again_loses_nothing(old: str) -> None:
    engine = create_engine(old)

    def rows() -> list[object]:
        with engine.connect() as connection:
            found = [
                connection.execute(text(f"SELECT * FROM {name} ORDER BY id")).mappings().all()
                for name in ("jobs", "bulks", "schedules")
            ]
        return [dict(row) for table in found for row in table]

    before = rows()
    migrations.upgrade(old)
    migrations.downgrade(old, "0009")
    assert rows() == before
    engine.dispose()
