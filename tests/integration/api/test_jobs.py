"""Jobs over real HTTP: submitted, listed, cancelled, and every way to ask for the wrong thing."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from namm_runtime import policies
from store.workers import ModelCard
from tests.conftest import Api, problem
from tests.support.job_requests import ASK


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def test_a_job_is_queued_with_what_was_asked_and_the_defaults(api: Api, client: httpx.Client) -> None:
    asked = {**ASK, "priority": 5, "metadata": {"case": "17"}, "deadline": 600, "scorer": "namm-key@1"}
    response = client.post("/v1/jobs", json=asked)
    assert response.status_code == 201, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] == "queued"
    assert job["model"] == "bundled"
    assert job["policy"] == "namm-key"
    assert job["scorer"] == "namm-key@1"
    assert job["prompts"] == ASK["questions"]
    assert job["metadata"] == {"case": "17"}
    assert job["priority"] == 5
    assert job["progress"] is None
    assert job["error"] is None
    assert set(job["timestamps"]) == {"created", "queued"}
    wait = datetime.fromisoformat(job["deadline"]) - datetime.fromisoformat(job["timestamps"]["created"])
    assert timedelta(seconds=590) < wait <= timedelta(seconds=601)
    assert client.get(f"/v1/jobs/{job['id']}").json() == job
    assert client.get(f"/v1/documents/{job['document_id']}").json()["bytes"] == len(ASK["text"])
    with api.database.session() as session:
        hint = session.execute(text("SELECT queue, job_id FROM outbox")).one()
    assert hint == ("jobs.bundled", job["id"])


@pytest.mark.parametrize(
    ("task", "prompts"),
    [
        ({"task": "summarize", "points": 2}, ["Key point 1:", "Key point 2:"]),
        (
            {"task": "summarize", "points": 1, "questions": ["When?"], "template": "key-points@1"},
            ["Key point 1:", "When?"],
        ),
        ({"task": "prompt", "prompt": "List the dates."}, ["List the dates."]),
        ({"task": "ask", "questions": ["Who?", "When?"]}, ["Who?", "When?"]),
    ],
)
def test_each_task_becomes_prompts(client: httpx.Client, task: dict[str, Any], prompts: list[str]) -> None:
    response = client.post("/v1/jobs", json={"text": "Some text.", **task})
    assert response.status_code == 201
    assert response.json()["prompts"] == prompts


def test_an_unknown_model_is_answered_with_the_known_ones(api: Api, client: httpx.Client) -> None:
    api.register(ModelCard("other"), "wrk_2")
    body = problem(client.post("/v1/jobs", json={**ASK, "model": "llama-9"}), 422, "unknown_model", "model")
    assert body["known_models"] == ["bundled", "other"]
    assert "bundled, other" in body["detail"]
    body = problem(client.post("/v1/jobs", json=ASK), 422, "model_required", "model")
    assert body["known_models"] == ["bundled", "other"]


def test_a_model_that_nobody_serves_any_more_is_never_the_default(api: Api, client: httpx.Client) -> None:
    api.register(ModelCard("yesterday"), "wrk_2")
    with api.database.session() as session:
        session.execute(
            text("UPDATE workers SET heartbeat_at = now() - interval '1 hour' WHERE id = 'wrk_2'")
        )
    assert client.post("/v1/jobs", json=ASK).json()["model"] == "bundled"
    assert client.post("/v1/jobs", json={**ASK, "model": "yesterday"}).status_code == 201


def test_the_default_cache_budget_is_the_settings(api: Api, client: httpx.Client) -> None:
    assert client.post("/v1/jobs", json=ASK).json()["cache_budget"] is None, "left to the scorer"
    api.settings.default_cache_budget = 768
    assert client.post("/v1/jobs", json=ASK).json()["cache_budget"] == 768
    assert client.post("/v1/jobs", json={**ASK, "cache_budget": 64}).json()["cache_budget"] == 64
    with api.database.session() as session:
        session.execute(text("UPDATE worker_models SET policies = NULL"))
    assert client.post("/v1/jobs", json={**ASK, "policy": "full"}).json()["cache_budget"] is None


def test_a_cache_budget_may_go_by_its_former_name(client: httpx.Client) -> None:
    made = client.post("/v1/jobs", json={**ASK, "budget": 64}).json()
    assert (made["cache_budget"], made["budget"]) == (64, 64)
    described = client.get("/openapi.json").json()["components"]["schemas"]
    assert described["JobCreate"]["properties"]["budget"]["deprecated"]
    assert described["JobOut"]["properties"]["budget"]["deprecated"]


def test_a_scorer_needs_a_policy_that_takes_one(client: httpx.Client) -> None:
    body = {**ASK, "policy": "window", "scorer": "namm-key"}
    problem(client.post("/v1/jobs", json=body), 422, "scorer_not_used", "scorer")


@pytest.mark.parametrize("policy", [name for name in policies.names() if policies.scorer_of(name)])
def test_every_learned_policy_takes_a_scorer(api: Api, client: httpx.Client, policy: str) -> None:
    with api.database.session() as session:
        session.execute(text("UPDATE worker_models SET policies = NULL"))
    made = client.post("/v1/jobs", json={**ASK, "policy": policy, "scorer": "namm-key"})
    assert made.status_code == 201, made.text


def test_without_any_worker_a_job_cannot_choose_its_model(api: Api, client: httpx.Client) -> None:
    with api.database.session() as session:
        session.execute(text("DELETE FROM workers"))
    response = client.post("/v1/jobs", json=ASK)
    problem(response, 503, "no_worker")
    assert response.headers["retry-after"]
    # Its worker may only be restarting, so nothing is said against the name.
    problem(client.post("/v1/jobs", json={**ASK, "model": "bundled"}), 503, "no_worker")


def test_pages_stay_the_same_while_jobs_come_in(client: httpx.Client) -> None:
    def submit() -> str:
        return str(client.post("/v1/jobs", json=ASK).json()["id"])

    made = [submit() for _ in range(7)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get("/v1/jobs", params={"limit": 3, **cursor}).json()
        seen += [job["id"] for job in page["data"]]
        submit()  # newer than the cursor: must not shift what is still to come
        if not page["has_more"]:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == sorted(made, reverse=True)
    assert page["next_cursor"] is None


def test_jobs_are_filtered(api: Api, client: httpx.Client) -> None:
    api.register(ModelCard("other"), "wrk_2")
    ids = [client.post("/v1/jobs", json={**ASK, "model": m}).json()["id"] for m in ("bundled", "other")]
    client.post(f"/v1/jobs/{ids[0]}/cancel")

    def listed(**filters: Any) -> list[str]:
        response = client.get("/v1/jobs", params=filters)
        assert response.status_code == 200, response.text
        return [job["id"] for job in response.json()["data"]]

    assert listed() == sorted(ids, reverse=True)
    assert listed(state="cancelled") == [ids[0]]
    assert listed(state=["cancelled", "queued"]) == sorted(ids, reverse=True)
    assert listed(model="other") == [ids[1]]
    assert listed(model="none") == []
    assert listed(created_before="2001-01-01T00:00:00Z") == []
    assert len(listed(created_from=(datetime.now(UTC) - timedelta(minutes=5)).isoformat())) == 2


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ({"state": "sleeping"}, "state[0]"),
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "9" * 40}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "am9iX1x4MDA"}, "cursor"),
        ({"cursor": "ä"}, "cursor"),
        ({"created_from": "yesterday"}, "created_from"),
        ({"created_from": "2027-01-01T00:00:00"}, "created_from"),
    ],
)
def test_a_wrong_filter_is_refused(refusing_api: Api, filters: dict[str, Any], field: str) -> None:
    with refusing_api.client() as client:
        response = client.get("/v1/jobs", params=filters)
    problem(response, 422, response.json()["code"], field)


def test_cancel_is_idempotent_and_a_cancelled_job_says_so(client: httpx.Client) -> None:
    job = client.post("/v1/jobs", json=ASK).json()
    problem(client.get(f"/v1/jobs/{job['id']}/result"), 409, "result_not_ready")
    first = client.post(f"/v1/jobs/{job['id']}/cancel")
    assert first.status_code == 200
    assert first.json()["state"] == "cancelled"
    assert first.json()["error"]["code"] == "cancelled"
    assert client.post(f"/v1/jobs/{job['id']}/cancel").json() == first.json()
    body = problem(client.get(f"/v1/jobs/{job['id']}/result"), 404, "no_result")
    assert body["state"] == "cancelled"
    assert client.get(f"/v1/jobs/{job['id']}/cost").json() == {
        "job_id": job["id"],
        "final": True,
        "currency": None,
        "price_book": None,
        "price_per_device_hour": None,
        "setting": None,
        "no_saving": None,
        "summary": [],
        "lines": [],
    }


def test_progress_result_and_cost_of_a_running_job(api: Api, client: httpx.Client) -> None:
    job_id = client.post("/v1/jobs", json=ASK).json()["id"]
    with api.database.session() as session:
        session.execute(
            text(
                "UPDATE jobs SET state = 'running', attempt = 1, running_at = now(), "
                "progress_phase = 'reading', progress_tokens_done = 250, progress_tokens_total = 1000, "
                "progress_tokens_per_second = 50, "
                "progress_updated_at = now(), scorer = 'namm-key@1', positions = 'cache-relative'"
            )
        )
        answers = [{"prompt": "When?", "text": "Tuesday", "tokens": 2, "finish_reason": "stop"}]
        session.execute(
            text(
                "INSERT INTO results (job_id, tenant_id, attempt, complete, answers) "
                "SELECT id, tenant_id, 1, false, CAST(:answers AS jsonb) FROM jobs"
            ),
            {"answers": json.dumps(answers)},
        )
    job = client.get(f"/v1/jobs/{job_id}").json()
    progress = job["progress"]
    assert (progress["phase"], progress["tokens_done"], progress["tokens_total"]) == ("reading", 250, 1000)
    assert progress["eta_seconds"] == pytest.approx(15.0)
    assert job["positions"] == "cache-relative"
    result = client.get(f"/v1/jobs/{job_id}/result").json()
    assert result["complete"] is False
    unknown = {"points": None, "guided": False, "evicted_attention": None, "at_risk": False}
    assert result["answers"] == [{**answers[0], **unknown}]
    assert (result["reading"], result["rereads"], result["warnings"]) == (None, 0, [])
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelling"


def test_a_document_that_is_gone_or_never_was(client: httpx.Client) -> None:
    problem(client.post("/v1/jobs", json={"document_id": "doc_0", "questions": ["Q"]}), 404, "not_found")
    for path in ("/v1/documents/doc_0", "/v1/jobs/job_0", "/v1/jobs/job_0/result", "/v1/jobs/job_0/cost"):
        problem(client.get(path), 404, "not_found")
    problem(client.post("/v1/jobs/job_0/cancel"), 404, "not_found")
