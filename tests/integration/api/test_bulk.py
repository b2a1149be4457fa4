"""Bulk work over REST, with a conductor and the stand-in engine."""

import json
from pathlib import Path
from typing import Any

from tests.conftest import problem
from tests.support.bulk_bench import PROMPT, SUMMARIZE, TEXTS, BulkBench
from tests.support.standin import right_answer


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
