"""Budgets over real HTTP, and what a worker does about them at its snapshots."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from api.budgets.schemas import BudgetCreate
from store import blobs, workers
from store.tenants import DEFAULT_TENANT
from tests.conftest import Api, problem
from tests.support.budgets import bill, events
from tests.support.standin import right_answer
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs
from worker.loops.reaper import reap_once

DOCUMENT = "All work and no play makes Jack a dull boy. " * 40
LEAST = "0.0000000001"  # crossed by the first report of any worker
BUDGET = {"amount": LEAST, "period": "month", "action": "reject"}
Submit = Callable[..., dict[str, Any]]


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


@pytest.fixture
def worker(api: Api, monkeypatch: pytest.MonkeyPatch) -> WorkerProcess:
    """A worker of the API's model. It reports at snapshots only."""
    monkeypatch.setenv("PALIMPSEST_STANDIN_SECONDS", "0.001")
    changes = {"engine": "tests.support.standin:load", "model_name": "bundled", "progress_seconds": 3600}
    changes |= {"snapshot_chunks": 1, "chunk_tokens": 128}
    with api.database.session() as session:
        workers.register(session, "wrk_real", "here", "cpu")
    return WorkerProcess(api.settings.model_copy(update=changes), api.database, "wrk_real")


@pytest.fixture
def submit(client: httpx.Client) -> Submit:
    def create(headers: dict[str, str] | None = None, **changes: object) -> dict[str, Any]:
        asked = {"text": DOCUMENT, "questions": ["Who?"], "policy": "window", **changes}
        response = client.post("/v1/jobs", json=asked, headers=headers)
        assert response.status_code == 201, response.text
        return response.json()

    return create


def new_budget(client: httpx.Client, **changes: object) -> dict[str, Any]:
    response = client.post("/v1/budgets", json={**BUDGET, **changes})
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"/v1/budgets/{response.json()['id']}"
    return response.json()


def spend(api: Api, cost: str) -> None:
    with api.database.session() as session:
        [now] = session.scalars(text("SELECT now()"))
        bill(session, DEFAULT_TENANT, cost, now, project="default")


def reap(api: Api) -> int:
    return reap_once(api.database, blobs.connect(api.settings), api.settings).released


def count(api: Api, table: str) -> int:
    with api.database.session() as session:
        return int(session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_a_budget_is_set_shown_listed_and_deleted(api: Api, client: httpx.Client) -> None:
    spend(api, "12.34")
    made = new_budget(client, amount="20.50", timezone="Europe/Berlin", action="notify")
    assert (float(made["amount"]), float(made["spent"]), float(made["remaining"])) == (20.5, 12.34, 8.16)
    assert (made["currency"], made["period"], made["crossed"]) == ("USD", "month", False)
    assert (made["project"], made["api_key_id"]) == (None, None)
    assert made["period_start"] < made["created_at"] < made["period_end"]
    path = f"/v1/budgets/{made['id']}"
    assert client.get(path).json() == made
    assert client.get("/v1/budgets").json() == {"data": [made]}
    with api.client(api.new_key("ten_other")) as other:
        assert other.get("/v1/budgets").json() == {"data": []}
        problem(other.get(path), 404, "not_found")
        problem(other.delete(path), 404, "not_found")
    assert client.delete(path).status_code == 204
    problem(client.delete(path), 404, "not_found")
    assert client.get("/v1/budgets").json() == {"data": []}


REFUSED: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"amount": 12.5}, 422, "invalid_request", "amount"),  # a binary fraction
    ({"amount": True}, 422, "invalid_request", "amount"),
    ({"amount": "0"}, 422, "invalid_request", "amount"),
    ({"amount": "-1"}, 422, "invalid_request", "amount"),
    ({"amount": "NaN"}, 422, "invalid_request", "amount"),
    ({"amount": "0.00000000001"}, 422, "invalid_request", "amount"),
    ({"amount": "1" * 29}, 422, "invalid_request", "amount"),
    ({"period": "year"}, 422, "invalid_request", "period"),
    ({"action": "panic"}, 422, "invalid_request", "action"),
    ({"project": ""}, 422, "invalid_request", "project"),
    ({"project": "a\0b"}, 422, "invalid_request", "project"),
    ({"project": "a", "api_key_id": "key_1"}, 422, "invalid_request", "body"),
    ({"currency": "dollar"}, 422, "invalid_request", "currency"),
    ({"colour": "blue"}, 422, "invalid_request", "colour"),
    ({"currency": "XTS"}, 422, "unknown_currency", "currency"),
    ({"timezone": "Mars/Olympus"}, 422, "unknown_timezone", "timezone"),
    ({"api_key_id": "key_06f3k2v5r8c4x1m7d9a0b2e6g8"}, 404, "not_found", None),
]


@pytest.mark.parametrize(("changes", "status", "code", "field"), REFUSED)
def test_what_is_no_budget_is_refused(
    refusing_api: Api, changes: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    with refusing_api.client() as client:
        problem(client.post("/v1/budgets", json={**BUDGET, **changes}), status, code, field)
    assert count(refusing_api, "budgets") == 0


def test_the_same_budget_twice_is_a_conflict(client: httpx.Client) -> None:
    new_budget(client)
    problem(client.post("/v1/budgets", json={**BUDGET, "amount": "7"}), 409, "budget_exists")


def test_every_documented_example_is_a_budget() -> None:
    examples = BudgetCreate.model_json_schema()["examples"]
    assert len([BudgetCreate.model_validate(example) for example in examples]) == 2


def test_a_crossed_rejecting_budget_refuses_jobs_and_tells_once(
    api: Api, client: httpx.Client, submit: Submit
) -> None:
    key = {"idempotency-key": "once"}
    first = submit(key)
    budget = new_budget(client, amount="10.00")
    spend(api, "9")
    second = submit()
    spend(api, "2.50")
    asked = {"text": "A text.", "questions": ["Who?"], "policy": "window"}
    files = api.stored_files()
    for _ in range(2):
        body = problem(client.post("/v1/jobs", json=asked), 402, "budget_exceeded")
    found = client.get(f"/v1/budgets/{budget['id']}").json()
    assert found["crossed"]
    assert (body["budget"], body["spent"], body["amount"]) == (budget["id"], "11.5", "10")
    assert body["period_end"][:19] == found["period_end"][:19]
    assert budget["id"] in body["detail"]
    assert api.stored_files() == files
    assert {job["id"] for job in client.get("/v1/jobs").json()["data"]} == {first["id"], second["id"]}
    assert [told["budget"] for told in events(api.database)] == [budget["id"]]
    assert submit(key) == first  # answered before the budget was crossed


def test_a_rejecting_budget_of_another_key_or_tenant_refuses_nothing(
    api: Api, client: httpx.Client, submit: Submit
) -> None:
    new_budget(client, project="reports")
    with api.client(api.new_key("ten_other")) as other:
        new_budget(other)
    spend(api, "1")
    assert submit()["held_by"] is None
    assert events(api.database) == []


def test_a_job_under_a_crossed_queue_budget_waits_until_it_is_deleted(
    api: Api, client: httpx.Client, submit: Submit, worker: WorkerProcess
) -> None:
    budget = new_budget(client, action="queue")
    spend(api, "1")
    job = submit()
    assert (job["state"], job["held_by"]) == ("queued", budget["id"])
    assert run_jobs(worker) == 0
    assert reap(api) == 0
    client.delete(f"/v1/budgets/{budget['id']}")
    assert reap(api) == 1
    assert run_jobs(worker) == 1
    done = client.get(f"/v1/jobs/{job['id']}").json()
    assert (done["state"], done["held_by"]) == ("succeeded", None)


def test_a_running_job_is_given_back_at_a_snapshot_and_goes_on_from_it(
    api: Api, client: httpx.Client, submit: Submit, worker: WorkerProcess
) -> None:
    budget = new_budget(client, action="queue")
    job = submit()
    assert job["held_by"] is None
    assert run_jobs(worker) == 1
    path = f"/v1/jobs/{job['id']}"
    held = client.get(path).json()
    assert (held["state"], held["held_by"], held["attempt"]) == ("queued", budget["id"], 1)
    assert 0 < held["progress"]["tokens_done"] < len(DOCUMENT)
    assert [told["budget"] for told in events(api.database)] == [budget["id"]]
    assert (reap(api), run_jobs(worker)) == (0, 0)
    client.delete(f"/v1/budgets/{budget['id']}")
    assert (reap(api), run_jobs(worker)) == (1, 1)
    done = client.get(path).json()
    assert (done["state"], done["attempt"]) == ("succeeded", 2)
    [answer] = client.get(f"{path}/result").json()["answers"]
    assert answer["text"] == right_answer(DOCUMENT.encode(), "Who?")
    figures = {one["name"]: float(one["quantity"]) for one in client.get(f"{path}/cost").json()["summary"]}
    assert figures["device_seconds.waste"] == 0
    # Every chunk of 64 bytes was read once, and one prompt answered.
    steps = -(-len(DOCUMENT) // 64) + 1
    with api.database.session() as session:
        seconds = session.scalars(
            text(
                "SELECT sum(quantity) FROM usage_ledger WHERE job_id = :id AND meter IN "
                "('device_seconds.read', 'device_seconds.answer')"
            ),
            {"id": job["id"]},
        ).one()
    assert float(seconds) == pytest.approx(0.001 * steps)


def test_a_running_job_fails_at_a_snapshot_and_all_it_did_is_waste(
    api: Api, client: httpx.Client, submit: Submit, worker: WorkerProcess
) -> None:
    budget = new_budget(client)
    job = submit()
    with api.database.session() as session:  # of an attempt before
        session.execute(
            text(
                "INSERT INTO results (job_id, tenant_id, attempt, complete, answers) VALUES (:id, :tenant, "
                """0, false, '[{"prompt": "Who?", "text": "Jack", "tokens": 1, "finish_reason": "stop"}]')"""
            ),
            {"id": job["id"], "tenant": DEFAULT_TENANT},
        )
    assert run_jobs(worker) == 1
    path = f"/v1/jobs/{job['id']}"
    failed = client.get(path).json()
    assert (failed["state"], failed["error"]["code"]) == ("failed", "budget_exceeded")
    assert budget["id"] in failed["error"]["message"]
    assert 0 < failed["progress"]["tokens_done"] < len(DOCUMENT)
    assert client.get(f"{path}/result").json()["answers"][0]["text"] == "Jack"
    lines = client.get(f"{path}/cost").json()["lines"]
    assert lines
    assert all(line["waste"] for line in lines)
    assert len(events(api.database)) == 1
    found = client.get(f"/v1/budgets/{budget['id']}").json()
    assert float(found["spent"]) == pytest.approx(sum(float(line["amount"] or 0) for line in lines))


def test_a_notifying_budget_stops_nothing(
    api: Api, client: httpx.Client, submit: Submit, worker: WorkerProcess
) -> None:
    new_budget(client, action="notify")
    job = submit()
    run_jobs(worker)
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded"
    assert len(events(api.database)) == 1
    assert submit()["held_by"] is None


def test_a_job_being_cancelled_is_cancelled_and_not_over_budget(
    client: httpx.Client, submit: Submit, worker: WorkerProcess
) -> None:
    new_budget(client)
    job = submit()
    engine = worker.serve().engine
    step = engine.step

    def cancel_first() -> list[Any]:
        client.post(f"/v1/jobs/{job['id']}/cancel")
        return step()

    engine.step = cancel_first  # type: ignore[method-assign]
    run_jobs(worker)
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"
