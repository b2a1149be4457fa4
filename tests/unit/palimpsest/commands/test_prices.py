"""Price books, the ledger and projects on the command line."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import update
from typer.testing import CliRunner

from palimpsest.cli import app
from palimpsest.commands.prices import read_book
from store import documents, jobs, tenants
from store.billing import prices
from store.database import Database
from store.jobs import leases
from store.jobs.leases import Holder
from store.tables.billing import Bill
from store.tables.job_states import State
from store.tenants import DEFAULT_TENANT, api_keys
from tests.support import REPOSITORY

DOCS = REPOSITORY / "docs" / "how-to"
BOOK = """
name = "ours"
currency = "EUR"
note = "From [red]our[/red] invoices"
[[price]]
meter = "device_seconds"
unit = "device-hour"
amount = 2.4300000001
"""
Run = Callable[..., Result]


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    def invoke(*arguments: str) -> Result:
        env = {"DATABASE_URL": database_url, "PALIMPSEST_DATA_DIR": str(tmp_path), "COLUMNS": "200"}
        return CliRunner().invoke(app, list(arguments), env=env)

    return invoke


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    def save(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return save


def test_the_placeholders_are_shown(run: Run, db: Database) -> None:
    shown = run("price", "show").output
    assert "placeholder: USD" in shown
    assert "in effect" in shown
    [cpu] = [line for line in shown.splitlines() if line.startswith("device_seconds") and "cpu" in line]
    assert cpu.split() == ["device_seconds", "cpu", "device-hour", "0.10"]
    assert "0.374 + 0.0001876 · tokens" in shown
    assert "benchmarks/results/lengths.json" in shown


def test_a_book_in_toml_is_read_exactly_and_takes_effect(
    run: Run, db: Database, write: Callable[[str, str], str]
) -> None:
    result = run("price", "load", write("ours.toml", BOOK))
    assert result.exit_code == 0, result.output
    assert "'ours' (EUR) is in effect for attempts that begin from now on" in result.output
    assert "From [red]our[/red] invoices" in result.output
    assert "2.4300000001" in run("price", "show").output
    with db.session() as session:
        newest = prices.books(session)[0].book
    assert newest.price[0].amount == Decimal("2.4300000001")
    everything = run("price", "show", "--all").output
    assert everything.index("ours: EUR") < everything.index("placeholder: USD")
    assert "past" in everything


def test_a_book_in_json_for_later_is_announced(
    run: Run, db: Database, write: Callable[[str, str], str]
) -> None:
    later = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    values = {
        "name": "next year",
        "currency": "USD",
        "effective_from": later,
        "price": [{"meter": "device_seconds", "unit": "device-hour", "amount": 1.1}],
    }
    result = run("price", "load", write("next.json", json.dumps(values)))
    assert result.exit_code == 0, result.output
    assert "takes effect at" in result.output
    assert "placeholder: USD" in result.output
    shown = run("price", "show").output
    assert "placeholder: USD" in shown
    assert "'next year' takes effect at" in shown
    assert "future" in run("price", "show", "--all").output
    again = run("price", "load", write("again.json", json.dumps(values | {"name": "again"})))
    assert again.exit_code == 1
    assert "takes effect at the same time" in again.output


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.toml", BOOK.replace('"EUR"', '"euro"'), "currency"),
        ("a.toml", BOOK.replace("2.4300000001", "-1.0"), "at least 0"),
        ("a.toml", BOOK.replace("2.4300000001", "nan"), "finite"),
        ("a.toml", BOOK.replace("2.4300000001", "1e300"), "less than a billion"),
        ("a.toml", BOOK.replace("2.4300000001", "0.00000000001"), "10 decimals"),
        ("a.toml", BOOK.replace("device-hour", "GPU-day"), "price.0.unit"),
        ("a.toml", BOOK + 'colour = "red"', "price.0.colour"),
        ("a.toml", "effective_from = 2020-01-01T00:00:00Z\n" + BOOK, "in the past"),
        ("a.toml", "effective_from = 2090-01-01T00:00:00\n" + BOOK, "effective_from"),
        ("a.toml", BOOK.replace('"ours"', '"a\\u0000b"'), "The database reported an error"),
        ("a.toml", "name = ", "cannot be read"),
        ("a.json", "[]", "is invalid"),
        ("a.json", "[" * 100_000, "cannot be read"),
        ("a.yaml", BOOK, "neither a .toml nor a .json file"),
    ],
)
def test_a_book_that_cannot_be_used_is_told_in_a_sentence(
    name: str, text: str, told: str, run: Run, db: Database, write: Callable[[str, str], str]
) -> None:
    result = run("price", "load", write(name, text))
    assert result.exit_code == 1, result.output
    assert told in result.output
    assert len(result.output.splitlines()) == 1
    with db.session() as session:
        assert len(prices.books(session)) == 1


def test_the_documented_example_can_be_loaded(run: Run, db: Database) -> None:
    book = read_book(DOCS / "prices.example.toml")
    assert book.full_cache
    result = run("price", "load", str(DOCS / "prices.example.toml"))
    assert result.exit_code == 0, result.output


def test_ledger_rebuild_says_how_many_and_how_many_differ(run: Run, db: Database) -> None:
    assert "0 bills recomputed from the ledger; none changed" in run("ledger", "rebuild").output
    with db.session() as session:
        tenant = tenants.ensure(session)
        key = documents.new_document_id()
        documents.create(session, tenant, key, sha256="", size=1, media_type="text/plain", filename=None)
        for _ in range(3):
            jobs.create(session, tenant, jobs.NewJob(key, "ask", ["?"], "small", "window"))
        for job in leases.claim(session, ["small"], Holder("wrk", "cpu", 2**30), limit=3, lease_seconds=30):
            assert job.lease_token is not None
            leases.finish(session, job.id, job.lease_token, State.FAILED, usage={"seconds": {"read": 1.5}})
    assert "3 bills recomputed from the ledger; none changed" in run("ledger", "rebuild").output
    with db.session() as session:
        session.execute(update(Bill).where(Bill.job_id == job.id).values(cost=7))
    assert "3 bills recomputed from the ledger; 1 changed" in run("ledger", "rebuild").output
    assert "none changed" in run("ledger", "rebuild").output


def test_a_key_of_a_project(run: Run, db: Database) -> None:
    assert run("key", "create", "--project", "[b]nightly[/b]").exit_code == 0
    assert run("key", "create").exit_code == 0
    listed = run("key", "list").output
    assert "project" in listed.splitlines()[0]
    assert "[b]nightly[/b]" in listed
    assert "default" in listed
    for wrong in ("", " a", "a\n", "x" * 65):
        assert run("key", "create", "--project", wrong).exit_code == 2


def test_a_key_of_an_admin(run: Run, db: Database) -> None:
    for options in ((), ("--admin",)):
        assert run("key", "create", "--name", "some", *options).exit_code == 0
    admin, plain = run("key", "list").output.splitlines()[1:]
    assert "admin" in admin
    assert "admin" not in plain
    with db.session() as session:
        assert [row.admin for row in api_keys.list_keys(session, DEFAULT_TENANT)] == [True, False]


def test_a_database_that_does_not_answer_is_told(tmp_path: Path) -> None:
    env = {"DATABASE_URL": f"postgresql://nobody@/none?host={tmp_path}", "PALIMPSEST_DATA_DIR": str(tmp_path)}
    result = CliRunner().invoke(app, ["price", "show"], env=env)
    assert result.exit_code == 1
    assert "The database reported an error" in result.output
