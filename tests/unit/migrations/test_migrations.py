"""The migrations lead to the models and back."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

import migrations
from store import documents, jobs, tenants
from store.database import Database
from store.jobs import leases
from store.tables.job_states import State
from tests.unit.store.conftest import HOLDER


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        names = set(found) - {"alembic_version"}
    engine.dispose()
    return names


def revision(url: str) -> str:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.scalars(text("SELECT version_num FROM alembic_version")).one()
    engine.dispose()
    return str(found)


def test_up_down_and_up_again(empty_database_url: str) -> None:
    migrations.upgrade(empty_database_url)
    first = tables(empty_database_url)
    assert {"jobs", "usage_ledger", "outbox"} <= first
    migrations.downgrade(empty_database_url, "base")
    assert tables(empty_database_url) == set()
    migrations.upgrade(empty_database_url)
    assert tables(empty_database_url) == first


@pytest.fixture
def held(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Connection]]:
    """A database of before bulk jobs, and a transaction in it that has read jobs and goes on."""
    monkeypatch.setattr(migrations, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(migrations, "PAUSE_SECONDS", 0)
    migrations.upgrade(empty_database_url, "0006")
    engine = create_engine(empty_database_url)
    with engine.connect() as connection:
        connection.execute(text("SELECT count(*) FROM jobs"))
        yield empty_database_url, connection
    engine.dispose()


def test_a_lock_that_cannot_be_had_leaves_the_schema_as_it_was(held: tuple[str, Connection]) -> None:
    url, _ = held
    with pytest.raises(migrations.SchemaLocked, match="'ALTER TABLE jobs ADD COLUMN bulk_id"):
        migrations.upgrade(url)
    assert revision(url) == "0006"
    assert "bulks" not in tables(url)


def test_a_lock_that_is_given_back_is_waited_for(
    held: tuple[str, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, holder = held
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: holder.rollback())
    migrations.upgrade(url)
    assert "bulks" in tables(url)


def test_another_failure_is_told_as_it_is(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE jobs (id text)"))
    engine.dispose()
    with pytest.raises(DBAPIError, match='relation "jobs" already exists'):
        migrations.upgrade(empty_database_url)


def test_models_equal_migrations(database_url: str) -> None:
    migrations.check(database_url)


def test_migrating_twice_keeps_the_data(database_url: str) -> None:
    database = Database(database_url)
    with database.session() as session:
        tenants.ensure(session, "ten_a", "a")
    migrations.upgrade(database_url)
    with database.session() as session:
        assert session.scalar(text("SELECT name FROM tenants")) == "a"
    database.close()


@pytest.mark.parametrize(
    "change",
    ["UPDATE usage_ledger SET quantity = 0", "DELETE FROM usage_ledger", "TRUNCATE usage_ledger"],
)
def test_ledger_is_append_only(database_url: str, change: str) -> None:
    database = Database(database_url)
    with database.session() as session:
        tenant = tenants.ensure(session)
        key = documents.new_document_id()
        documents.create(session, tenant, key, sha256="", size=1, media_type="text/plain", filename=None)
        jobs.create(session, tenant, jobs.NewJob(key, "ask", ["?"], "small", "window"))
        [job] = leases.claim(session, ["small"], HOLDER, limit=1, lease_seconds=30)
        assert job.lease_token is not None
        leases.finish(session, job.id, job.lease_token, State.FAILED, usage={"seconds": {"read": 1.5}})
    with pytest.raises(DBAPIError, match="append-only"), database.session() as session:
        session.execute(text(change))
    database.close()


def test_price_books_never_change(database_url: str) -> None:
    database = Database(database_url)
    for change in (
        "UPDATE price_books SET name = 'x'",
        "DELETE FROM price_books",
        "TRUNCATE price_books CASCADE",
    ):
        with pytest.raises(DBAPIError, match="never change"), database.session() as session:
            session.execute(text(change))
    database.close()


def test_activations_and_shadow_runs_of_before_keep_their_meaning(empty_database_url: str) -> None:
    url = empty_database_url
    migrations.upgrade(url, "0005")
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO tenants (id, name) VALUES ('t', 't')",
            "INSERT INTO documents (id, tenant_id, sha256, bytes, media_type, blob_key) "
            "VALUES ('d', 't', '', 1, 'text/plain', 'k')",
            "INSERT INTO scorer_versions (id, name, version, kind, upload_key, upload_sha256, created_by) "
            "VALUES ('v', 'namm', '1', 'safetensors', 'k', 's', 'key')",
            "INSERT INTO scorer_activations (id, name, scope, alias, version_id, activated_by, ended_at) "
            "SELECT id, 'namm', 'global', 'stable', 'v', 'key', now() FROM unnest(ARRAY['b', 'c', 'a']) id",
            "INSERT INTO jobs (id, tenant_id, document_id, task, prompts, model, policy, max_output_tokens) "
            "SELECT id, 't', 'd', 'ask', '[]', 'm', 'p', 1 FROM unnest(ARRAY['1', '2', '3']) AS id",
            "INSERT INTO scorer_shadow_runs "
            "(job_id, version_id, tenant_id, stable, answers, agreed, error, device_seconds) VALUES "
            "('1', 'v', 't', 'namm@0', 2, 1, NULL, 3), ('2', 'v', 't', 'namm@0', 0, 0, 'x', 1), "
            "('3', 'v', 't', 'namm@0', 0, 0, 'gone', 0)",
        ):
            connection.execute(text(statement))
    migrations.upgrade(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO scorer_activations (id, name, scope, alias, version_id, activated_by) "
                "VALUES ('A', 'namm', 'global', 'stable', 'v', 'key')"
            )
        )
        order = connection.scalars(text("SELECT id FROM scorer_activations ORDER BY number")).all()
        outcomes = connection.scalars(text("SELECT outcome FROM scorer_shadow_runs ORDER BY job_id")).all()
    assert order == ["a", "b", "c", "A"]
    assert outcomes == ["answered", "broke", "not_made"]
    migrations.downgrade(url, "0005")
    engine.dispose()
