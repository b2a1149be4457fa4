"""`palimpsest budget` against a real API."""

from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import text
from typer.testing import CliRunner

from palimpsest.cli import app
from store.tenants import DEFAULT_TENANT
from tests.conftest import Api
from tests.support.budgets import bill


@pytest.fixture
def environment(api: Api) -> dict[str, str]:
    return {"PALIMPSEST_URL": api.url, "PALIMPSEST_API_KEY": api.key, "COLUMNS": "80"}


def palimpsest(environment: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


def test_budgets_are_created_listed_and_deleted(api: Api, environment: dict[str, str]) -> None:
    more = ("--period", "day", "--action", "queue", "--timezone", "Europe/Berlin", "--project", "default")
    made = palimpsest(environment, "budget", "create", "1234567.0000000005", *more)
    assert made.exit_code == 0, made.output
    budget = made.output.strip()
    assert budget.startswith("bud_")
    with api.database.session() as session:
        [now] = session.scalars(text("SELECT now()"))
        bill(session, DEFAULT_TENANT, "2000000.0000000001", now, project="default")
    listed = palimpsest(environment, "budget", "list").output
    [line] = [line for line in listed.splitlines() if budget in line]
    for word in (
        "project default",
        " 2000000.0000000001 ",
        "1234567.0000000005 USD a day",
        "queue",
        "crossed",
    ):
        assert word in line
    with api.client() as client:
        asked: dict[str, Any] = {"text": "A text.", "questions": ["Who?"]}
        job = client.post("/v1/jobs", json=asked).json()["id"]
    [line] = [line for line in palimpsest(environment, "jobs").output.splitlines() if job in line]
    assert f"queued, held by budget {budget}" in line
    assert palimpsest(environment, "budget", "delete", budget).exit_code == 0
    assert budget not in palimpsest(environment, "budget", "list").output


@pytest.mark.parametrize(
    "arguments", [("create", "nothing"), ("create", "5", "--period", "year"), ("delete", "bud_none")]
)
def test_a_refusal_is_told_and_fails(environment: dict[str, str], arguments: tuple[str, ...]) -> None:
    ended = palimpsest(environment, "budget", *arguments)
    assert ended.exit_code == 1
    assert ended.exception is None or isinstance(ended.exception, SystemExit)
