"""Bulk jobs that are refused, held back, or waiting for a worker, over real HTTP."""

import json
from typing import Any

import pytest
from sqlalchemy import text

from store import workers
from store.tenants import DEFAULT_TENANT
from tests.conftest import problem
from tests.support.budgets import bill, events
from tests.support.bulk_bench import PROMPT, SECRET, SUMMARIZE, BulkBench
from tests.support.standin import right_answer

TEXTS = {"a.txt": "First. " * 20, "b.txt": "Second. " * 20, "c.md": "Third. " * 20}


def test_without_a_worker_it_is_taken_and_says_what_it_waits_for(
    bench: BulkBench, collection: dict[str, Any]
) -> None:
    with bench.api.database.session() as session:
        workers.mark_stopped(session, "wrk_test")
    begun = bench.begin(collection="letters")
    for _ in range(3):
        bench.conductor.round()
    waiting = bench.look(begun["id"])
    assert (waiting["state"], waiting["error"]["code"]) == ("running", "no_worker")


def test_a_digest_waits_for_a_worker_too(bench: BulkBench, collection: dict[str, Any]) -> None:
    begun = bench.begin(collection="letters")
    while bench.look(begun["id"])["state"] != "digesting":
        bench.work()
    with bench.api.database.session() as session:
        served = workers.models(session, 60.0)
        for worker in ("wrk_test", bench.process.worker_id):
            workers.mark_stopped(session, worker)
    bench.conductor.round()
    waiting = bench.look(begun["id"])
    assert (waiting["state"], waiting["error"]["code"]) == ("digesting", "no_worker")
    bench.api.register(served[0].card, "wrk_back")
    assert bench.end(begun["id"])["digest_job_id"]
    assert json.loads(bench.bundle(begun["id"], "totals.json"))["digest"] == {"made": True}


def test_a_defect_of_one_bulk_job_does_not_hold_up_the_next(
    bench: BulkBench, collection: dict[str, Any]
) -> None:
    broken = bench.begin(collection="letters")
    with bench.api.database.session() as session:
        session.execute(text("UPDATE bulks SET ask = '{}'"))
    whole = bench.begin(collection="letters")
    assert bench.end(whole["id"])["state"] == "succeeded"
    assert bench.look(broken["id"])["state"] == "running"


def test_what_cannot_be_done_is_refused_at_once(bench: BulkBench, collection: dict[str, Any]) -> None:
    ask = {"task": "ask", "questions": ["Who?"]}
    here = {"collection": "letters"}
    for body, status, code, field in (
        ({"job": SUMMARIZE}, 422, "invalid_request", None),
        ({**here, "source": str(bench.source), "job": SUMMARIZE}, 422, "invalid_request", None),
        ({**here, "glob": "*.txt", "job": SUMMARIZE}, 422, "invalid_request", None),
        ({"source": str(bench.source), "glob": "**.txt", "job": SUMMARIZE}, 422, "invalid_request", "glob"),
        ({"source": "sftp://127.0.0.1/x", "job": SUMMARIZE}, 422, "source_not_allowed", "source"),
        ({"source": "memory://other", "job": SUMMARIZE}, 422, "source_not_allowed", "source"),
        ({**here}, 422, "invalid_request", "job"),
        ({**here, "job": SUMMARIZE, "metadata": {"schedule_id": "x"}}, 422, "invalid_request", "metadata"),
        ({"collection": "none", "job": SUMMARIZE}, 404, "not_found", None),
        ({"source": str(bench.theirs), "job": SUMMARIZE}, 422, "source_not_allowed", "source"),
        ({"source": f"{bench.source}/../theirs", "job": SUMMARIZE}, 422, "source_invalid", "source"),
        ({"source": "odd://somewhere", "job": SUMMARIZE}, 422, "source_invalid", "source"),
        ({"source": f"s3://key:{SECRET}@bucket", "job": SUMMARIZE}, 422, "source_invalid", "source"),
        ({**here, "to": str(bench.source), "job": SUMMARIZE}, 422, "destination_not_allowed", "to"),
        ({**here, "job": {**SUMMARIZE, "template": "none"}}, 422, "unknown_template", "template"),
        ({**here, "job": {**SUMMARIZE, "model": "none"}}, 422, "unknown_model", "model"),
        ({**here, "job": {**ask, "points": 3}}, 422, "invalid_request", "job"),
        ({**here, "digest": True, "job": ask}, 422, "digest_of_summaries", "digest"),
    ):
        response = bench.client.post("/v1/bulk", json=body)
        problem(response, status, code, field)
        assert SECRET not in response.text
    assert bench.client.get("/v1/bulk").json()["data"] == []
    # Other work than summaries has no digest unless one is asked for.
    assert bench.begin(**here, job=ask)["digest"] is False


def test_credentials_come_back_from_nowhere(bench: BulkBench, capfd: pytest.CaptureFixture[str]) -> None:
    made = bench.client.post("/v1/collections", json={"name": "shelf", "source": "memory://shelf"}).json()
    begun = bench.begin(collection="shelf", to="memory://shelf/out")
    bench.end(begun["id"])
    with bench.api.database.session() as session:
        for table in ("collections", "collection_items", "bulks", "bulk_items", "jobs", "outbox"):
            rows = session.execute(text(f"SELECT {table}::text FROM {table}")).scalars().all()
            assert SECRET not in str(rows)
    shown = bench.client.get(f"/v1/collections/{made['id']}").text + str(bench.look(begun["id"]))
    assert SECRET not in shown
    out, err = capfd.readouterr()
    assert SECRET not in out + err


def test_a_rejecting_budget_refuses_bulk_jobs_and_a_queueing_one_does_not(
    bench: BulkBench, collection: dict[str, Any]
) -> None:
    body = {"collection": "letters", "job": SUMMARIZE}
    key = {"idempotency-key": "before"}
    before = bench.client.post("/v1/bulk", json=body, headers=key).json()
    budget = {"amount": "1", "period": "month"}
    queueing = bench.client.post("/v1/budgets", json={**budget, "action": "queue"}).json()
    with bench.api.database.session() as session:
        [now] = session.scalars(text("SELECT now()"))
        bill(session, DEFAULT_TENANT, "1.50", now, project="default")
    held = bench.begin(collection="letters")
    rejecting = bench.client.post("/v1/budgets", json={**budget, "action": "reject"}).json()
    problem(bench.client.post("/v1/bulk", json={**body, "collection": "none"}), 402, "budget_exceeded")
    found = problem(bench.client.post("/v1/bulk", json=body), 402, "budget_exceeded")
    assert (found["budget"], found["spent"]) == (rejecting["id"], "1.5")
    source = {"source": "memory://shelf", "job": SUMMARIZE}
    problem(bench.client.post("/v1/bulk", json=source), 402, "budget_exceeded")
    bench.client.post(f"/v1/bulk/{held['id']}/cancel")
    bench.end(held["id"])
    problem(bench.client.post(f"/v1/bulk/{held['id']}/retry"), 402, "budget_exceeded")
    assert bench.look(held["id"])["state"] == "cancelled"
    names = [one["name"] for one in bench.client.get("/v1/collections").json()["data"]]
    assert names == ["letters"]  # nothing is left of what was refused
    assert {told["budget"] for told in events(bench.api.database)} == {queueing["id"], rejecting["id"]}
    assert bench.client.post("/v1/bulk", json=body, headers=key).json() == before
    shown = [one["id"] for one in bench.client.get("/v1/bulk").json()["data"]]
    assert shown == [held["id"], before["id"]]


def test_tenants_are_apart(bench: BulkBench, collection: dict[str, Any]) -> None:
    begun = bench.begin(collection="letters")
    (bench.theirs / "a.txt").write_text("Theirs.")
    with bench.api.client(bench.api.new_key("ten_other")) as stranger:
        problem(stranger.get("/v1/collections/letters"), 404, "not_found")
        assert stranger.post("/v1/collections", json={"name": "letters"}).status_code == 201
        own = stranger.post("/v1/bulk", json={"source": str(bench.theirs), "job": SUMMARIZE})
        assert own.status_code == 201
        bench.end(begun["id"])
        [line] = stranger.get(f"/v1/bulk/{own.json()['id']}/bundle/documents.jsonl").text.splitlines()
        assert json.loads(line)["summary"] == [right_answer(b"Theirs.", PROMPT)]
        for path in ("", "/documents", "/bundle/digest.md"):
            problem(stranger.get(f"/v1/bulk/{begun['id']}{path}"), 404, "not_found")
    problem(bench.client.get(f"/v1/bulk/{own.json()['id']}"), 404, "not_found")
