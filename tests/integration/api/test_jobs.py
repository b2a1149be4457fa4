"""Jobs over real HTTP: submitted, listed, cancelled, and every way to ask for the wrong thing."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from store.workers import ModelCard
from tests.conftest import Api, problem

ASK = {"text": "The meeting is on Tuesday.", "questions": ["When is the meeting?"]}


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def rows(api: Api, table: str) -> int:
    with api.database.session() as session:
        return int(session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_a_job_is_queued_with_what_was_asked_and_the_defaults(api: Api, client: httpx.Client) -> None:
    asked = {**ASK, "priority": 5, "metadata": {"case": "17"}, "deadline": 600, "scorer": "namm-key@1"}
    response = client.post("/v1/jobs", json=asked)
    assert response.status_code == 201, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] == "queued"
    assert job["model"] == "bundled"
    assert job["policy"] == api.settings.default_policy
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


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"questions": ["Q"]}, "invalid_request", "body"),
    ({**ASK, "document_id": "doc_1"}, "invalid_request", "body"),
    ({"text": "x"}, "invalid_request", "body"),
    ({**ASK, "template": "summary"}, "invalid_request", "body"),
    ({**ASK, "points": 3}, "invalid_request", "body"),
    ({"text": "x", "task": "summarize", "template": "haiku"}, "unknown_template", "template"),
    ({"text": "x", "task": "summarize", "template": "summary@2"}, "unknown_template", "template"),
    ({"text": "x", "task": "summarize", "template": "Summary"}, "invalid_request", "template"),
    ({"text": "x", "task": "summarize", "points": 0}, "invalid_request", "points"),
    ({"text": "x", "task": "prompt"}, "invalid_request", "body"),
    ({**ASK, "prompt": "x"}, "invalid_request", "body"),
    ({**ASK, "task": "translate"}, "invalid_request", "task"),
    ({**ASK, "colour": "blue"}, "invalid_request", "colour"),
    ({**ASK, "questions": "Q"}, "invalid_request", "questions"),
    ({**ASK, "questions": ["Q", " \n"]}, "invalid_request", "questions[1]"),
    ({**ASK, "questions": ["Q" * 32_769]}, "invalid_request", "questions[0]"),
    ({**ASK, "questions": ["Q"] * 5}, "too_many_questions", "questions"),
    ({**ASK, "questions": ["a\0b"]}, "invalid_request", "questions[0]"),
    ({**ASK, "text": "a\0b"}, "invalid_request", "text"),
    ({**ASK, "text": " \n\t "}, "document_empty", "text"),
    ({**ASK, "text": ""}, "document_empty", "text"),
    ({**ASK, "model": "llama-9"}, "unknown_model", "model"),
    ({**ASK, "model": "../etc/passwd"}, "invalid_request", "model"),
    ({**ASK, "policy": "sorcery"}, "unknown_policy", "policy"),
    ({**ASK, "scorer": "namm-key@99"}, "unknown_scorer", "scorer"),
    ({**ASK, "scorer": "other"}, "unknown_scorer", "scorer"),
    ({**ASK, "scorer": "a@b@c"}, "invalid_request", "scorer"),
    ({**ASK, "cache_budget": 15}, "invalid_request", "cache_budget"),
    ({**ASK, "cache_budget": 10**400}, "invalid_request", "cache_budget"),
    ({**ASK, "budget": 15}, "invalid_request", "budget"),
    ({**ASK, "budget": 64, "cache_budget": 64}, "invalid_request", None),
    ({**ASK, "max_output_tokens": 0}, "invalid_request", "max_output_tokens"),
    ({**ASK, "max_output_tokens": 10**30}, "invalid_request", "max_output_tokens"),
    ({**ASK, "max_output_tokens": 4097}, "output_too_long", "max_output_tokens"),
    ({**ASK, "max_output_tokens": 2048}, "output_too_long", "max_output_tokens"),
    ({**ASK, "seed": -1}, "invalid_request", "seed"),
    ({**ASK, "seed": 2**63}, "invalid_request", "seed"),
    ({**ASK, "temperature": 2.1}, "invalid_request", "temperature"),
    ({**ASK, "priority": 101}, "invalid_request", "priority"),
    ({**ASK, "priority": 1.5}, "invalid_request", "priority"),
    ({**ASK, "deadline": 0}, "invalid_request", "deadline"),
    ({**ASK, "deadline": -5}, "invalid_request", "deadline"),
    ({**ASK, "deadline": 1e300}, "invalid_request", "deadline"),
    ({**ASK, "deadline": True}, "invalid_request", "deadline"),
    ({**ASK, "deadline": "tomorrow"}, "invalid_request", "deadline"),
    ({**ASK, "deadline": "2027-01-31T18:00:00"}, "invalid_request", "deadline"),
    ({**ASK, "deadline": "2027-02-31T18:00:00Z"}, "invalid_request", "deadline"),
    ({**ASK, "deadline": "2001-01-01T00:00:00Z"}, "invalid_request", "deadline"),
    ({**ASK, "deadline": "9999-12-31T23:59:59-12:00"}, "invalid_request", "deadline"),
    ({**ASK, "metadata": {f"k{n}": "v" for n in range(17)}}, "invalid_request", "metadata"),
    ({**ASK, "metadata": {"k": "v" * 513}}, "invalid_request", "metadata.k"),
    ({**ASK, "metadata": {"k": 1}}, "invalid_request", "metadata.k"),
    ({"document_id": "../../x", "questions": ["Q"]}, "invalid_request", "document_id"),
]


@pytest.mark.parametrize(("body", "code", "field"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_a_wrong_request_is_told_what_is_wrong_with_it(
    refusing_api: Api, body: dict[str, Any], code: str, field: str
) -> None:
    with refusing_api.client() as client:
        problem(client.post("/v1/jobs", json=body), 422, code, field)
    assert rows(refusing_api, "jobs") == 0
    assert rows(refusing_api, "documents") == 0
    assert refusing_api.stored_files() == []


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


def test_without_any_worker_a_job_cannot_choose_its_model(api: Api, client: httpx.Client) -> None:
    with api.database.session() as session:
        session.execute(text("DELETE FROM workers"))
    response = client.post("/v1/jobs", json=ASK)
    problem(response, 503, "no_worker")
    assert response.headers["retry-after"]
    # Its worker may only be restarting, so nothing is said against the name.
    problem(client.post("/v1/jobs", json={**ASK, "model": "bundled"}), 503, "no_worker")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"text": ', "malformed_json"),
        (b"not json at all", "malformed_json"),
        (b"", "invalid_request"),
        (b"[]", "invalid_request"),
        (b"null", "invalid_request"),
        (b'"text"', "invalid_request"),
        (b"\xff\xfe", "malformed_json"),
        (b"[" * 15_000, "malformed_body"),
        (b'{"text": "x", "questions": ["q"], "budget": ' + b"9" * 5000 + b"}", "malformed_body"),
        (b'{"text": "x", "questions": ["q"], "temperature": NaN}', "invalid_request"),
        (b'{"text": "\\ud800", "questions": ["q"]}', "invalid_request"),
    ],
)
def test_a_body_that_is_not_a_request(refusing_api: Api, content: bytes, code: str) -> None:
    with refusing_api.client() as client:
        response = client.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    problem(response, response.status_code, code)


def test_inline_text_and_the_whole_body_have_their_limits(api: Api, client: httpx.Client) -> None:
    body = problem(client.post("/v1/jobs", json={**ASK, "text": "ü" * 8193}), 413, "text_too_large", "text")
    assert body["max_bytes"] == 16 * 1024
    problem(client.post("/v1/jobs", json={**ASK, "text": "x" * 2**21}), 413, "body_too_large", "body")

    def endless() -> Iterator[bytes]:
        yield b'{"text": "'
        while True:
            yield b"x" * 65536

    response = client.post("/v1/jobs", content=endless(), headers={"content-type": "application/json"})
    problem(response, 413, "body_too_large", "body")
    assert rows(api, "jobs") == 0


def test_an_idempotency_key_makes_one_job(api: Api, client: httpx.Client) -> None:
    headers = {"idempotency-key": "order-66"}
    first = client.post("/v1/jobs", json={**ASK, "deadline": 60}, headers=headers)
    again = client.post("/v1/jobs", json={"deadline": 60, **ASK}, headers=headers)
    assert first.status_code == again.status_code == 201
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    other = client.post("/v1/jobs", json={**ASK, "priority": 1}, headers=headers)
    problem(other, 422, "idempotency_mismatch", "Idempotency-Key")
    assert rows(api, "jobs") == 1
    assert rows(api, "documents") == 1
    with api.client(api.new_key("ten_other")) as stranger:
        theirs = stranger.post("/v1/jobs", json={**ASK, "deadline": 60}, headers=headers)
    assert theirs.json()["id"] != first.json()["id"]


def test_an_idempotency_key_makes_one_job_when_requests_race(api: Api, client: httpx.Client) -> None:
    def post(_: int) -> httpx.Response:
        return client.post("/v1/jobs", json=ASK, headers={"idempotency-key": "race"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(16)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert rows(api, "jobs") == 1


def test_a_refused_request_leaves_its_idempotency_key_free(client: httpx.Client) -> None:
    headers = {"idempotency-key": "k"}
    problem(client.post("/v1/jobs", json={**ASK, "model": "no"}, headers=headers), 422, "unknown_model")
    assert client.post("/v1/jobs", json=ASK, headers=headers).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "a b"])
def test_a_bad_idempotency_key_is_refused(refusing_api: Api, key: str) -> None:
    with refusing_api.client() as client:
        response = client.post("/v1/jobs", json=ASK, headers={"idempotency-key": key})
    problem(response, 422, "invalid_request", "idempotency-key")


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
    assert result["answers"] == [{**answers[0], "points": None}]
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelling"


def test_a_document_that_is_gone_or_never_was(client: httpx.Client) -> None:
    problem(client.post("/v1/jobs", json={"document_id": "doc_0", "questions": ["Q"]}), 404, "not_found")
    for path in ("/v1/documents/doc_0", "/v1/jobs/job_0", "/v1/jobs/job_0/result", "/v1/jobs/job_0/cost"):
        problem(client.get(path), 404, "not_found")
    problem(client.post("/v1/jobs/job_0/cancel"), 404, "not_found")
