"""A database from before guided reading goes on after 0011: what was read open stays so, the rest is new."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select, text

import migrations
from store import bulk
from store.billing import bills
from store.database import Database
from store.schedules import Template
from store.tables.billing import Bill
from store.tables.bulk import Bulk
from store.tables.jobs import Job
from store.tables.schedules import Schedule
from store.workers import models

ROWS = Path(__file__).with_name("data") / "0009.sql"
SAVED = text("SELECT memory_saved_byte_seconds FROM reporting.savings")


@pytest.fixture
def old(empty_database_url: str) -> str:
    """URL of a database of schema 0010 with rows of jobs, bulk jobs, schedules and a bill."""
    migrations.upgrade(empty_database_url, "0009")
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(ROWS.read_text().replace("%", "%%"))
        connection.execute(text("UPDATE bills SET kv_byte_seconds = 70, dense_byte_seconds = 50"))
    engine.dispose()
    migrations.upgrade(empty_database_url, "0010")
    return empty_database_url


@pytest.fixture
def db(old: str) -> Iterator[Database]:
    migrations.upgrade(old)
    database = Database(old)
    yield database
    database.close()


def test_jobs_of_before_stay_open_and_keep_their_policy(db: Database) -> None:
    with db.session() as session:
        found = session.scalars(select(Job)).all()
        assert len(found) == 4
        assert {(job.reading, job.on_risk) for job in found} == {("open", "report")}
        assert {(job.policy, job.policy_reason, job.policy_pending) for job in found} == {
            ("window", None, False)
        }


def test_a_job_submitted_by_the_version_before_is_read_as_that_reads(db: Database) -> None:
    with db.session() as session:
        session.execute(
            text(
                "INSERT INTO jobs (id, tenant_id, document_id, task, prompts, model, policy, "
                "max_output_tokens) SELECT 'job_late', tenant_id, document_id, task, prompts, model, policy, "
                "64 FROM jobs LIMIT 1"
            )
        )
        assert session.get_one(Job, "job_late").reading == "open"


def test_bulk_jobs_and_schedules_of_before_get_the_default(db: Database) -> None:
    with db.session() as session:
        [work] = session.scalars(select(Bulk))
        asked = bulk.ask_from_json(work.ask)
        assert (asked.reading, asked.on_risk) == (None, "report")
        assert as_stored(bulk.ask_to_json(asked)) == work.ask, (
            "so that `only_changed` recognizes the same request"
        )
        for row in session.scalars(select(Schedule)):
            template = Template.from_json(row.template)
            assert (template.ask.reading, template.ask.on_risk) == (None, "report")
            assert as_stored(template.to_json()) == row.template


def as_stored(value: dict[str, Any]) -> Any:
    return json.loads(json.dumps(value))


def test_models_of_before_have_no_default_until_they_are_loaded_again(db: Database) -> None:
    with db.session() as session:
        [model] = models(session, live_seconds=1e9)
    assert (model.card.default_policy, model.card.default_policy_reason) == (None, None)


def test_bills_of_before_keep_their_figures_and_a_rebuild_their_dimensions(db: Database) -> None:
    with db.session() as session:
        [bill] = session.scalars(select(Bill))
        assert (bill.reading, bill.fits, bill.warnings, bill.rereads) == (None, False, [], 0)
        assert session.scalar(SAVED) == -20
        bill.fits = True
        session.flush()
        assert session.scalar(SAVED) == 0
    with db.session() as session:
        bills.rebuild(session)
        [bill] = session.scalars(select(Bill))
        assert (bill.reading, bill.fits, bill.warnings, bill.rereads) == (None, False, [], 0)


def test_down_again_loses_nothing(old: str) -> None:
    engine = create_engine(old)

    def state() -> list[object]:
        with engine.connect() as connection:
            rows = [
                connection.execute(text(f"SELECT * FROM {name} ORDER BY 1, 2")).mappings().all()
                for name in ("jobs", "bulks", "schedules", "bills", "worker_models", "reporting.savings")
            ]
            comments = connection.scalars(text("SELECT description FROM pg_description ORDER BY 1"))
            return [[dict(row) for table in rows for row in table], comments.all()]

    before = state()
    migrations.upgrade(old)
    assert state() != before
    migrations.downgrade(old, "0010")
    assert state() == before
    engine.dispose()
