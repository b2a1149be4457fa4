"""How jobs are read, what their results tell of it, and which policy they get, over real HTTP."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from store.jobs import leases
from store.tables.job_states import State
from store.workers import ModelCard
from tests.conftest import Api, problem
from tests.support.job_requests import ASK
from tests.unit.store.conftest import HOLDER


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def submit(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    response = client.post("/v1/jobs", json={**ASK, **changes})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def finish(api: Api, answers: list[dict[str, Any]], usage: dict[str, Any]) -> None:
    with api.database.session() as session:
        [job] = leases.claim(session, ["bundled"], HOLDER, limit=1, lease_seconds=30)
        token = job.lease_token or 0
        leases.finalize(session, job.id, token)
        terms: dict[str, Any] = {"answers": answers, "usage": usage, "total_usage": usage}
        leases.finish(session, job.id, token, State.SUCCEEDED, **terms)


def test_documents_are_read_guided_unless_something_else_is_asked_or_set(
    api: Api, client: httpx.Client
) -> None:
    assert submit(client).items() >= {"reading": "guided", "on_risk": "report"}.items()
    assert submit(client, reading="open")["reading"] == "open"
    assert submit(client, on_risk="reread").items() >= {"reading": "guided", "on_risk": "reread"}.items()
    api.settings.default_reading = "open"
    assert submit(client)["reading"] == "open"
    assert submit(client, reading="guided")["reading"] == "guided"
    assert submit(client, on_risk="reread")["reading"] == "guided", "an open reading knows of no risk"


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"reading": "both"}, "invalid_request", "reading"),
        ({"on_risk": "panic"}, "invalid_request", "on_risk"),
        ({"reading": "open", "on_risk": "reread"}, "reread_needs_guided", "on_risk"),
    ],
)
def test_what_does_not_make_sense_is_refused(
    client: httpx.Client, changes: dict[str, str], code: str, field: str
) -> None:
    problem(client.post("/v1/jobs", json={**ASK, **changes}), 422, code, field)
    work = {"document_ids": ["doc_0"], "job": {"questions": ["Who?"], **changes}}
    if code != "invalid_request":
        problem(client.post("/v1/bulk", json=work), 422, code)


def test_an_idempotency_key_tells_readings_apart(client: httpx.Client) -> None:
    headers = {"idempotency-key": "once"}
    first = client.post("/v1/jobs", json={**ASK, "reading": "open"}, headers=headers).json()
    again = client.post("/v1/jobs", json={**ASK, "reading": "open"}, headers=headers)
    assert (again.json(), again.headers["idempotent-replayed"]) == (first, "true")
    other = client.post("/v1/jobs", json={**ASK, "reading": "guided"}, headers=headers)
    problem(other, 422, "idempotency_mismatch")


def test_a_result_tells_what_was_evicted_and_what_to_be_wary_of(api: Api, client: httpx.Client) -> None:
    job = submit(client, policy="window")
    warning = {"code": "slots_piled_up", "message": "Most slots lie in one fifth of the document."}
    usage = {"seconds": {"read": 1.0}, "reading": "guided", "rereads": 1, "warnings": [warning]}
    answer = {"prompt": "When?", "text": "Tuesday", "tokens": 2, "finish_reason": "stop"}
    risk = {"guided": True, "evicted_attention": 0.41, "at_risk": True}
    finish(api, [{**answer, **risk}], usage | {"positions": "absolute"})
    result = client.get(f"/v1/jobs/{job['id']}/result").json()
    assert result["answers"][0].items() >= risk.items()
    assert (result["reading"], result["rereads"], result["warnings"]) == ("guided", 1, [warning])
    assert (result["policy"], result["policy_reason"]) == ("window", "The request names it.")
    setting = client.get(f"/v1/jobs/{job['id']}/cost").json()["setting"]
    assert (setting["reading"], setting["rereads"]) == ("guided", 1)
    page = client.get("/v1/usage", params={"start_time": "2020-01-01T00:00:00Z", "group_by[]": "reading"})
    assert page.status_code == 200, page.text


def test_a_result_of_before_has_no_warnings(api: Api, client: httpx.Client) -> None:
    job = submit(client)
    with api.database.session() as session:
        session.execute(text("UPDATE jobs SET policy_reason = NULL, reading = 'open'"))
    answer = {"prompt": "When?", "text": "Tuesday", "tokens": 2, "finish_reason": "stop"}
    finish(api, [answer], {"seconds": {"read": 1.0}})
    result = client.get(f"/v1/jobs/{job['id']}/result").json()
    assert (result["policy_reason"], result["reading"], result["warnings"]) == (None, None, [])


def test_a_job_gets_the_default_of_its_model_with_the_reason(api: Api, client: httpx.Client) -> None:
    assert client.get("/v1/models").json()["data"][0].items() >= {"default_policy": "namm-key"}.items()
    job = submit(client)
    assert (job["policy"], "had loaded the model" in job["policy_reason"]) == ("namm-key", True)
    why = "The benchmark tables show it best on models like this."
    known = {"policies": ["namm-key", "keydiff"], "default_policy": "keydiff", "default_policy_reason": why}
    api.register(ModelCard("bundled", "r1", **known), "wrk_test")  # type: ignore[arg-type]
    models = client.get("/v1/models").json()
    default = {"default_policy": "keydiff", "default_policy_reason": why}
    assert models["data"][0].items() >= default.items()
    assert models["default_policy"] == "namm-key", "of a model that no worker has loaded"
    job = submit(client)
    assert (job["policy"], job["policy_reason"]) == ("keydiff", why)
    assert submit(client, scorer="namm-key@1")["policy"] == "namm-key"
    assert submit(client, policy="namm-key")["policy_reason"] == "The request names it."
    api.settings.default_policy = "namm-key"
    job = submit(client)
    assert (job["policy"], job["policy_reason"]) == ("namm-key", "PALIMPSEST_DEFAULT_POLICY names it.")
    assert client.get("/v1/models").json()["data"][0]["default_policy"] == "namm-key"


def test_schedules_and_bulk_jobs_keep_how_to_read(api: Api, client: httpx.Client) -> None:
    document = client.post("/v1/documents", content=b"A text.").json()["id"]
    work = {"questions": ["Who?"], "reading": "open"}
    body = {"name": "nightly", "cron": "30 2 * * *", "job": {"document_id": document, **work}}
    made = client.post("/v1/schedules", json=body).json()
    assert made["job"].items() >= {"reading": "open", "on_risk": "report"}.items()
    changed = client.put(f"/v1/schedules/{made['id']}", json=body | {"job": made["job"]}).json()
    assert changed["job"] == made["job"]
    asked = {"document_ids": [document], "job": {"questions": ["Who?"], "on_risk": "reread"}}
    bulk = client.post("/v1/bulk", json=asked).json()
    assert bulk["job"]["on_risk"] == "reread"
    assert "reading" not in bulk["job"]
