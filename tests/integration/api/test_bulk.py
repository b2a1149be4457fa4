"""Bulk work over REST, with a conductor and the stand-in engine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from store import workers
from store.tenants import DEFAULT_TENANT
from tests.conftest import problem
from tests.support.bulk_bench import PROMPT, SECRET, SUMMARIZE, BulkBench, bulk_bench
from tests.support.standin import right_answer
from tests.unit.store.billing.test_budgets import bill, events

TEXTS = {"a.txt": "First. " * 20, "b.txt": "Second. " * 20, "c.md": "Third. " * 20}


@pytest.fixture
def bench(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BulkBench]:
    with bulk_bench(database_url, redis_url, tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def collection(bench: BulkBench) -> dict[str, Any]:
    """Made by hand, of three uploads."""
    made = bench.client.post("/v1/collections", json={"name": "letters"})
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/v1/collections/{made.json()['id']}"
    documents = [{"document_id": bench.upload(body), "path": path} for path, body in TEXTS.items()]
    added = bench.client.post("/v1/collections/letters/documents", json={"documents": documents})
    assert added.json()["documents"] == 3
    found: dict[str, Any] = added.json()
    return found


@pytest.fixture
def folder(bench: BulkBench) -> Path:
    for path, body in TEXTS.items():
        (bench.source / path).write_text(body)
    return bench.source


# From a set to a bundle -------------------------------------------------------------------------------


def test_a_collection_becomes_a_bundle(bench: BulkBench, collection: dict[str, Any]) -> None:
    begun = bench.begin(collection="letters", metadata={"team": "red"})
    assert (begun["state"], begun["collection_id"], begun["bundle"]) == ("listing", collection["id"], None)
    early = problem(bench.client.get(f"/v1/bulk/{begun['id']}/bundle/digest.md"), 409, "bundle_not_ready")
    assert early["state"] == "listing"
    bench.conductor.round()
    bench.conductor.round()
    under_way = bench.look(begun["id"])
    assert under_way["progress"] == {"documents": 3, "states": {"queued": 3}, "done": 0}
    ended = bench.end(begun["id"])
    assert (ended["state"], ended["error"], ended["round"]) == ("succeeded", None, 1)
    assert ended["progress"] == {"documents": 3, "states": {"succeeded": 3}, "done": 3}
    assert [one["currency"] for one in ended["spent"]] == ["USD"]
    lines = bench.lines(ended["id"])
    assert {line["path"]: line["summary"] for line in lines} == {
        path: [right_answer(body.encode(), PROMPT)] for path, body in TEXTS.items()
    }
    totals = json.loads(bench.bundle(ended["id"], "totals.json"))
    assert (totals["documents"], totals["digest"]) == (3, {"made": True})
    digest = bench.client.get(f"/v1/bulk/{ended['id']}/bundle/digest.md")
    assert digest.headers["content-type"].startswith("text/markdown")
    assert f"{ended['id']}-digest.md" in digest.headers["content-disposition"]
    assert "3 of 3 documents done." in digest.text
    job = bench.client.get(f"/v1/jobs/{lines[0]['job_id']}").json()
    assert job["metadata"] == {"team": "red", "collection_id": collection["id"]}
    problem(bench.client.get(f"/v1/bulk/{ended['id']}/bundle/other.txt"), 422, "invalid_request")


def test_documents_are_paged_and_filtered(bench: BulkBench, collection: dict[str, Any]) -> None:
    broken = bench.upload("x" * 2000)
    body = {"documents": [{"document_id": broken, "path": "broken.txt"}]}
    bench.client.post("/v1/collections/letters/documents", json=body)
    begun = bench.begin(collection=collection["id"], job={**SUMMARIZE, "questions": ["refuse-later"]})
    bench.end(begun["id"])
    address, seen, cursor = f"/v1/bulk/{begun['id']}/documents", [], None
    while True:
        page = bench.client.get(address, params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        seen += page["data"]
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert [one["path"] for one in seen] == ["a.txt", "b.txt", "broken.txt", "c.md"]
    assert [one["seq"] for one in seen] == [0, 1, 2, 3]
    [failed] = bench.client.get(address, params={"state": "failed"}).json()["data"]
    assert (failed["path"], failed["error"]["code"]) == ("broken.txt", "document_not_text")
    assert failed["answers"] == []
    assert [answer["prompt"] for answer in seen[0]["answers"]] == [PROMPT, "refuse-later"]
    problem(bench.client.get(address, params={"cursor": "zzzz"}), 422, "invalid_cursor", "cursor")
    other = bench.client.get(address, params={"limit": 1}).json()["next_cursor"]
    problem(bench.client.get(address, params={"cursor": other, "state": "failed"}), 422, "invalid_cursor")


def test_a_source_becomes_a_bundle_in_a_destination(bench: BulkBench, folder: Path) -> None:
    begun = bench.begin(source=str(folder), glob="*.txt", to=str(bench.target))
    assert begun["collection"] == f"{folder} *.txt"
    ended = bench.end(begun["id"])
    assert (ended["state"], ended["delivery_error"]) == ("succeeded", None)
    assert ended["delivered_at"]
    assert [line["path"] for line in bench.lines(ended["id"])] == ["a.txt", "b.txt"]
    for name in ended["bundle"]:
        assert (bench.target / ended["id"] / name).read_text() == bench.bundle(ended["id"], name)
    again = bench.begin(source=str(folder), glob="*.txt", only_changed=True)
    assert again["collection_id"] == begun["collection_id"]
    assert bench.end(again["id"])["progress"]["documents"] == 0


def test_documents_are_named_one_by_one(bench: BulkBench) -> None:
    ids = [bench.upload("One.", "one.txt"), bench.upload("Two.", "two.txt")]
    ended = bench.end(bench.begin(document_ids=ids, digest=False)["id"])
    assert ended["collection_id"] is None
    assert [line["path"] for line in bench.lines(ended["id"])] == ["one.txt", "two.txt"]
    assert "All documents" not in bench.bundle(ended["id"], "digest.md")
    same = [*ids, bench.upload("Other.", "one.txt")]
    paths = [line["path"] for line in bench.lines(bench.end(bench.begin(document_ids=same)["id"])["id"])]
    assert paths == sorted(
        f"{name} ({one})" for name, one in zip(("one.txt", "two.txt", "one.txt"), same, strict=True)
    )
    body = {"document_ids": [ids[0], ids[0]], "job": SUMMARIZE}
    problem(bench.client.post("/v1/bulk", json=body), 422, "document_twice", "document_ids")
    body = {"document_ids": [ids[0], "doc_none"], "job": SUMMARIZE}
    problem(bench.client.post("/v1/bulk", json=body), 404, "not_found")


def test_an_idempotency_key_begins_one_bulk_job(bench: BulkBench, collection: dict[str, Any]) -> None:
    headers = {"idempotency-key": "nightly-1"}
    body = {"collection": "letters", "job": SUMMARIZE}
    first = bench.client.post("/v1/bulk", json=body, headers=headers)
    second = bench.client.post("/v1/bulk", json=body, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert [one["id"] for one in bench.client.get("/v1/bulk").json()["data"]] == [first.json()["id"]]
    other = bench.client.post("/v1/bulk", json={**body, "digest": False}, headers=headers)
    problem(other, 422, "idempotency_mismatch")


def test_bulk_jobs_are_listed(bench: BulkBench, collection: dict[str, Any]) -> None:
    ids = [bench.begin(collection="letters")["id"] for _ in range(3)]
    bench.client.post(f"/v1/bulk/{ids[0]}/cancel")
    page = bench.client.get("/v1/bulk", params={"limit": 2}).json()
    assert [one["id"] for one in page["data"]] == ids[:0:-1]
    rest = bench.client.get("/v1/bulk", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[:1], False)
    found = bench.client.get("/v1/bulk", params={"state": "cancelling"}).json()["data"]
    assert [one["id"] for one in found] == ids[:1]
    params = {"collection_id": "col_other"}
    assert bench.client.get("/v1/bulk", params=params).json()["data"] == []
    problem(bench.client.get("/v1/bulk", params={"state": "odd"}), 422, "invalid_request", "state")


# Cancel, retry, wait ----------------------------------------------------------------------------------


def test_cancel_then_retry(bench: BulkBench, collection: dict[str, Any]) -> None:
    begun = bench.begin(collection="letters")
    path = f"/v1/bulk/{begun['id']}"
    problem(bench.client.post(f"{path}/retry"), 409, "not_retryable")
    bench.conductor.round()
    assert bench.client.post(f"{path}/cancel").json()["state"] == "cancelling"
    ended = bench.end(begun["id"])
    assert (ended["state"], ended["error"]["code"]) == ("cancelled", "cancelled")
    assert ended["progress"]["states"] == {"cancelled": 3}
    assert {line["state"] for line in bench.lines(begun["id"])} == {"cancelled"}
    assert bench.client.post(f"{path}/cancel").json() == ended  # once more changes nothing
    again = bench.client.post(f"{path}/retry").json()
    assert (again["state"], again["round"], again["error"]) == ("running", 2, None)
    assert bench.end(begun["id"])["progress"]["states"] == {"succeeded": 3}
    problem(bench.client.post(f"{path}/retry"), 409, "not_retryable")


def test_a_retry_is_of_the_failed_ones_only(bench: BulkBench) -> None:
    good, bad = bench.upload("Good.", "good.txt"), bench.upload("x" * 2000, "bad.txt")
    work = {**SUMMARIZE, "questions": ["refuse-later"]}
    begun = bench.begin(document_ids=[good, bad], job=work)
    bench.end(begun["id"])
    before = {line["path"]: line["job_id"] for line in bench.lines(begun["id"])}
    assert bench.client.post(f"/v1/bulk/{begun['id']}/retry").status_code == 200
    bench.end(begun["id"])
    after = {line["path"]: line["job_id"] for line in bench.lines(begun["id"])}
    assert after["good.txt"] == before["good.txt"]
    assert after["bad.txt"] != before["bad.txt"]


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


# Refusals ---------------------------------------------------------------------------------------------


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


# Collections ------------------------------------------------------------------------------------------


def test_a_collection_changes_by_hand(bench: BulkBench, collection: dict[str, Any]) -> None:
    path = "/v1/collections/letters"
    assert bench.client.get(path).json() == bench.client.get(f"/v1/collections/{collection['id']}").json()
    other = bench.upload("Changed.")
    body = {"documents": [{"document_id": other, "path": "a.txt"}, {"document_id": other}]}
    assert bench.client.post(f"{path}/documents", json=body).json()["documents"] == 4
    shown = bench.client.get(f"{path}/documents").json()["data"]
    assert [one["path"] for one in shown] == ["a.txt", "b.txt", "c.md", other]
    assert shown[0]["document_id"] == other
    assert bench.client.delete(f"{path}/documents", params={"path": "b.txt"}).status_code == 204
    problem(bench.client.delete(f"{path}/documents", params={"path": "b.txt"}), 404, "not_found")
    gone = bench.client.get(f"{path}/documents", params={"deleted": True}).json()["data"]
    assert [one["path"] for one in gone] == ["b.txt"]
    first = bench.client.get(f"{path}/documents", params={"limit": 2}).json()
    rest = bench.client.get(f"{path}/documents", params={"cursor": first["next_cursor"]}).json()
    assert [one["path"] for one in [*first["data"], *rest["data"]]] == ["a.txt", "c.md", other]
    body = {"documents": [{"document_id": "doc_none"}]}
    problem(bench.client.post(f"{path}/documents", json=body), 404, "not_found")
    problem(bench.client.post("/v1/collections", json={"name": "letters"}), 409, "collection_exists")
    assert bench.client.post("/v1/collections", json={"name": "col_named"}).status_code == 201
    assert bench.client.get("/v1/collections/col_named").json()["name"] == "col_named"
    problem(bench.client.get("/v1/collections/col_none"), 404, "not_found")
    body = {"name": "globbed", "glob": "*.txt"}
    problem(bench.client.post("/v1/collections", json=body), 422, "invalid_request")
    for wrong in (
        {"path": "a"},
        {"error": {"code": "x", "message": "y"}},
        {"document_id": other, "error": {"code": "x", "message": "y"}},
    ):
        problem(bench.client.post(f"{path}/documents", json={"documents": [wrong]}), 422, "invalid_request")
    body = {"name": "globbed", "source": str(bench.source), "glob": "**/" * 90 + "x"}
    problem(bench.client.post("/v1/collections", json=body), 422, "invalid_request", "glob")
    body = {"documents": [{"document_id": other, "path": "é" * 501}]}
    problem(bench.client.post(f"{path}/documents", json=body), 422, "invalid_request")


def test_a_live_collection_follows_its_source(bench: BulkBench, folder: Path) -> None:
    (folder / "image.png").write_bytes(b"\x89PNG")
    made = bench.client.post("/v1/collections", json={"name": "live", "source": str(folder)}).json()
    assert made["refreshing"] is True
    bench.conductor.round()
    seen = bench.client.get("/v1/collections/live").json()
    assert (seen["documents"], seen["unreadable"], seen["refreshing"]) == (3, 1, False)
    (folder / "a.txt").unlink()
    assert bench.client.post("/v1/collections/live/refresh").status_code == 202
    bench.conductor.round()
    seen = bench.client.get("/v1/collections/live").json()
    assert (seen["documents"], seen["deleted"], seen["refresh_error"]) == (2, 1, None)
    [gone] = bench.client.get("/v1/collections/live/documents", params={"deleted": True}).json()["data"]
    assert (gone["path"], gone["deleted_at"] is None) == ("a.txt", False)
    body = {"documents": [{"document_id": bench.upload("By hand.")}]}
    problem(bench.client.post("/v1/collections/live/documents", json=body), 409, "collection_live")
    response = bench.client.delete("/v1/collections/live/documents", params={"path": "b.txt"})
    problem(response, 409, "collection_live")
    body = {"name": "theirs", "source": str(bench.theirs)}
    problem(bench.client.post("/v1/collections", json=body), 422, "source_not_allowed", "source")


def test_a_collection_is_forgotten_once_nothing_works_on_it(
    bench: BulkBench, collection: dict[str, Any]
) -> None:
    begun = bench.begin(collection="letters")
    problem(bench.client.delete("/v1/collections/letters"), 409, "collection_in_use")
    bench.end(begun["id"])
    body = {
        "name": "nightly",
        "cron": "0 6 * * *",
        "bulk": {"collection": "letters", "job": {"task": "summarize"}},
    }
    planned = bench.client.post("/v1/schedules", json=body).json()["id"]
    found = problem(bench.client.delete("/v1/collections/letters"), 409, "collection_in_use")
    assert "'nightly'" in found["detail"]
    assert bench.client.delete(f"/v1/schedules/{planned}").status_code == 204
    assert bench.client.delete("/v1/collections/letters").status_code == 204
    problem(bench.client.get("/v1/collections/letters"), 404, "not_found")
    assert len(bench.lines(begun["id"])) == 3
    assert bench.look(begun["id"])["collection"] == "letters"


def test_the_name_of_a_source_may_be_taken(bench: BulkBench) -> None:
    bench.client.post("/v1/collections", json={"name": "memory://shelf"})
    body = {"source": "memory://shelf", "job": SUMMARIZE}
    problem(bench.client.post("/v1/bulk", json=body), 409, "collection_exists")


# Templates --------------------------------------------------------------------------------------------


def test_templates_are_versions_of_their_tenant(bench: BulkBench) -> None:
    names = [one["label"] for one in bench.client.get("/v1/templates").json()["data"]]
    assert names == ["key-points@1", "summary@1"]
    body = {"prompt": "Point {number} of {points}:", "each_point": True}
    made = bench.client.post("/v1/templates/mine", json=body)
    assert (made.status_code, made.json()["label"]) == (201, "mine@1")
    body = {"prompt": "In {words} words."}
    assert bench.client.post("/v1/templates/mine", json=body).json()["label"] == "mine@2"
    document = bench.upload("Text.")
    for template, prompts in (("mine@1", ["Point 1 of 2:", "Point 2 of 2:"]), ("mine", ["In 30 words."])):
        work = {"task": "summarize", "template": template, "points": 2, "words": 30}
        ended = bench.end(bench.begin(document_ids=[document], job=work)["id"])
        [shown] = bench.client.get(f"/v1/bulk/{ended['id']}/documents").json()["data"]
        assert [answer["prompt"] for answer in shown["answers"]] == prompts
        job = bench.client.get(f"/v1/jobs/{shown['job_id']}").json()
        assert job["template"] == ("mine@1" if template == "mine@1" else "mine@2")
        assert job["max_output_tokens"] == (64 if template == "mine@1" else 90)
    with bench.api.client(bench.api.new_key("ten_other")) as stranger:
        assert len(stranger.get("/v1/templates").json()["data"]) == 2
        theirs = stranger.post("/v1/templates/mine", json={"prompt": "Theirs."})
        assert theirs.json()["label"] == "mine@1"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("summary", {"prompt": "Mine."}),
        ("mine", {"prompt": "{length} words"}),
        ("mine", {"prompt": "{points:>3}"}),
        ("mine", {"prompt": "One { brace"}),
        ("mine", {"prompt": "All the same:", "each_point": True}),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused(
    bench: BulkBench, name: str, body: dict[str, Any]
) -> None:
    problem(bench.client.post(f"/v1/templates/{name}", json=body), 422, "template_invalid", "prompt")
    problem(bench.client.post("/v1/templates/No_Name", json=body), 422, "invalid_request")


# Tenants ----------------------------------------------------------------------------------------------


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
