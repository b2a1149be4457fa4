"""Outcomes over real HTTP: what is counted, for whom, and how a wrong question is told."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from palimpsest.cli import app
from store import documents, jobs
from store.jobs import NewJob
from store.scorers import registry
from store.tables.scorers import ShadowRun
from store.tenants import DEFAULT_TENANT
from tests.conftest import Api, problem
from tests.support.bills import bill, book
from tests.support.versions import make

DAY = datetime(2026, 3, 1, tzinfo=UTC)
INTERVAL = {"start_time": "2026-03-01T00:00:00Z", "end_time": "2026-03-02T00:00:00Z"}
PATH = "/v1/scorers/namm/outcomes"


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    """Two versions in the registry, five jobs, one shadow run; and another tenant's."""
    api.new_key("ten_other")
    with api.database.session() as session:
        make(session, "1")
        two = make(session, "2")
        registry.attach_evaluation(session, two, {"score": 0.97}, "key_1")
        for tenant in (DEFAULT_TENANT, "ten_other"):
            key = documents.new_document_id()
            text = {"sha256": "", "size": 1, "media_type": "text/plain", "filename": None}
            documents.create(session, tenant, key, **text)
            job = jobs.create(session, tenant, NewJob(key, "ask", ["?"], "small", "window"))
            run = {
                "outcome": "answered",
                "answers": 4,
                "agreed": 3,
                "device_seconds": 1.0,
                "stable": "namm@1",
            }
            keys = {"job_id": job.id, "version_id": two.id, "tenant_id": tenant, "created_at": DAY}
            session.execute(insert(ShadowRun).values(**run, **keys))
    hour = timedelta(hours=1)
    tokens = {"tokens_document": Decimal(1000), "tokens_kept": Decimal(125)}
    book(
        api,
        bill(1, DAY, scorer="namm@1", cost=Decimal("0.5"), realised_saving=Decimal("-0.25"), **tokens),
        bill(2, DAY + hour, scorer="namm@1", outcome="failed", cost=Decimal("0.0000000001")),
        bill(3, DAY + hour, scorer="namm@2", scorer_quality=Decimal("0.9")),
        bill(4, DAY + hour, scorer="namm@2", tenant_id="ten_other", outcome="failed"),
        bill(5, DAY + 24 * hour, scorer="namm@2"),
    )
    with api.client() as client:
        yield client


def ask(client: httpx.Client, **params: Any) -> dict[str, Any]:
    response = client.get(PATH, params={**INTERVAL, **params})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_an_answer_has_every_version_with_its_figures(client: httpx.Client) -> None:
    body = ask(client)
    assert (body["object"], body["name"]) == ("list", "namm")
    assert (body["start_time"], body["end_time"]) == (INTERVAL["start_time"], INTERVAL["end_time"])
    two, one = body["data"]
    rate = one.pop("failure_rate")
    assert rate["value"] == 0.5
    assert 0 < rate["low"] < 0.5 < rate["high"] < 1
    assert one == {
        "scorer": "namm@1",
        "version": "1",
        "state": "verified",
        "sha256": "sha-1",
        "jobs": {"succeeded": 1, "failed": 1, "cancelled": 0, "expired": 0},
        "kept": 0.125,
        "device_seconds": "73",
        "score_seconds": "2.5",
        "score_share": pytest.approx(2.5 / 73),
        "scorer_quality": None,
        "money": [
            {
                "currency": "USD",
                "cost": "0.5000000001",
                "saving_allocated": None,
                "saving_realised": "-0.25",
            }
        ],
        "shadow": {"runs": 0, "failed": 0, "not_made": 0, "answers": 0, "agreed": 0, "agreement": None},
        "evaluation": None,
    }
    assert (two["version"], two["evaluation"], two["scorer_quality"]) == ("2", {"score": 0.97}, 0.9)


def test_a_tenant_sees_its_own_jobs_and_shadow_runs_only(api: Api, client: httpx.Client) -> None:
    [mine, _] = ask(client)["data"]
    assert mine["jobs"] == {"succeeded": 1, "failed": 0, "cancelled": 0, "expired": 0}
    assert (mine["shadow"]["runs"], mine["shadow"]["agreement"]["value"]) == (1, 0.75)
    with api.client(api.new_key("ten_other")) as stranger:
        theirs, other = ask(stranger)["data"]
    assert theirs["jobs"] == {"succeeded": 0, "failed": 1, "cancelled": 0, "expired": 0}
    assert theirs["shadow"]["runs"] == 1
    assert sum(other["jobs"].values()) == 0
    assert other["money"] == []


def test_versions_are_shown_as_they_are_asked_for(client: httpx.Client) -> None:
    found = [one["version"] for one in ask(client, version=["1", "2"])["data"]]
    assert found == ["1", "2"]
    assert [one["version"] for one in ask(client, version="2")["data"]] == ["2"]


def test_until_now_where_no_end_is_given(client: httpx.Client) -> None:
    response = client.get(PATH, params={"start_time": INTERVAL["start_time"]})
    assert response.json()["data"][0]["jobs"]["succeeded"] == 2


@pytest.mark.parametrize(
    ("params", "code", "field"),
    [
        ({"end_time": "2026-03-01T00:00:00Z"}, "invalid_request", "end_time"),
        ({"start_time": "yesterday"}, "invalid_request", "start_time"),
        ({"start_time": []}, "invalid_request", "start_time"),
        ({"versions": "1"}, "unknown_parameter", "versions"),
        ({"version": "a\0b"}, "invalid_request", "version"),
        ({"version": ["1"] * 51}, "invalid_request", "version"),
    ],
)
def test_a_wrong_question_is_told(refusing_api: Api, params: dict[str, Any], code: str, field: str) -> None:
    with refusing_api.client() as client:
        problem(client.get(PATH, params={**INTERVAL, **params}), 422, code, field)


def test_what_is_not_there_is_told(refusing_api: Api) -> None:
    with refusing_api.client() as client:
        problem(client.get(PATH, params=INTERVAL), 404, "not_found")
        problem(client.get(PATH, params={**INTERVAL, "version": "9"}), 404, "not_found")
        for name in ("a%00b", "a%25b", "x" * 3000):
            assert client.get(f"/v1/scorers/{name}/outcomes", params=INTERVAL).status_code in (404, 422)
    with refusing_api.client("") as client:
        problem(client.get(PATH, params=INTERVAL), 401, "api_key_missing")


def test_the_command_line_puts_them_side_by_side(api: Api, client: httpx.Client) -> None:
    recent = datetime.now(UTC) - timedelta(hours=1)
    book(api, bill(9, recent, scorer="namm@1", outcome="failed"), bill(10, recent, scorer="namm@2"))
    environment = {"PALIMPSEST_URL": api.url, "PALIMPSEST_API_KEY": api.key, "COLUMNS": "200"}
    ended = CliRunner().invoke(app, ["scorer", "compare", "namm", "1", "namm@2"], env=environment)
    assert ended.exit_code == 0, ended.output
    [rates] = [line for line in ended.output.splitlines() if line.startswith("failure rate")]
    assert rates.split() == ["failure", "rate", "100.0%", "[20.7%,", "100.0%]", "0.0%", "[0.0%,", "79.3%]"]
    ended = CliRunner().invoke(app, ["scorer", "compare", "namm", "9"], env=environment)
    assert ended.exit_code == 1
    assert "no scorer namm@9" in ended.output
