"""Collections over real HTTP: changed by hand, or following a source."""

from pathlib import Path
from typing import Any

from tests.conftest import problem
from tests.support.bulk_bench import SUMMARIZE, BulkBench

TEXTS = {"a.txt": "First. " * 20, "b.txt": "Second. " * 20, "c.md": "Third. " * 20}


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
