"""Files of a source: read once, refused if they are not documents, never lost to an error of the service."""

import os
from dataclasses import replace
from typing import Any

import pytest

from store import bulk, collections
from store.sources.folders import Reading
from store.sources.listing import Entry, SourceUnavailable
from tests.support.conductor_bench import ASK, Bench
from worker.bulk.ingest import Ingest


def test_one_bad_document_does_not_stop_the_rest_and_is_tried_again(bench: Bench) -> None:
    (bench.folder / "bad.txt").write_bytes(b"\xff\xfe")
    (bench.folder / "image.png").write_bytes(b"x")
    (bench.folder / "empty.txt").write_bytes(b" ")
    (bench.folder / "full.txt").write_text("x" * 2000)
    found = bench.run(bench.begin(replace(ASK, questions=("refuse-later",))))
    errors = {line["path"]: (line["error"] or {}).get("code") for line in bench.lines(found)}
    assert found.state == "succeeded"
    assert errors.pop("bad.txt") == "document_not_text"
    assert errors.pop("image.png") == "unsupported_document"
    assert errors.pop("empty.txt") == "document_empty"
    assert errors.pop("full.txt") == "document_not_text"  # of the engine
    assert set(errors.values()) == {None}
    before = {line["path"]: line["job_id"] for line in bench.lines(found)}
    with bench.db.session() as session:
        bulk.retry(session, bench.owner.tenant_id, found.id)
    again = bench.run(found.id)
    after = {line["path"]: line["job_id"] for line in bench.lines(again)}
    assert {path for path in before if before[path] != after[path]} == {"full.txt"}
    assert again.bundle_key != found.bundle_key


def test_a_file_that_only_looks_new_is_no_new_document(bench: Bench) -> None:
    bench.run(bench.begin())
    with bench.db.session() as session:
        found = collections.of_source(session, bench.owner.tenant_id, str(bench.folder), None)
        before = {row.path: row.document_id for row in collections.items(session, found.tenant_id, found.id)}
    for file in bench.folder.rglob("*.txt"):
        file.write_text(file.read_text())
    bench.run(bench.begin())
    with bench.db.session() as session:
        after = {row.path: row.document_id for row in collections.items(session, found.tenant_id, found.id)}
    assert before == after


def test_names_and_things_that_are_no_documents_do_not_stop_the_rest(bench: Bench) -> None:
    (bench.folder / os.fsdecode(b"bad\xff.txt")).write_text("x")
    deep = bench.folder.joinpath(*[letter * 240 for letter in "abcd"])
    deep.mkdir(parents=True)
    (deep / ("e" * 200 + ".txt")).write_text("x")
    os.mkfifo(bench.folder / "pipe.txt")
    found = bench.run(bench.begin())
    codes = [line["error"] and line["error"]["code"] for line in bench.lines(found)]
    assert sorted(codes, key=str) == [None] * 5 + ["path_invalid"] * 2


def test_a_defect_at_one_file_does_not_stop_the_rest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Ingest._record

    def record(self: Ingest, collection: Any, entry: Entry, *rest: Any) -> bool:
        if entry.path == "0/2.txt":
            raise ZeroDivisionError
        return plain(self, collection, entry, *rest)

    monkeypatch.setattr(Ingest, "_record", record)
    lines = {line["path"]: line for line in bench.lines(bench.run(bench.begin(digest=False)))}
    assert lines.pop("0/2.txt")["error"]["code"] == "internal_error"
    assert {line["state"] for line in lines.values()} == {"succeeded"}
    assert bench.blobs() == 4  # that of the row which was not written is gone


def test_a_full_disk_is_not_the_sources_fault_and_drops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(bench.begin())
    before = {path: row.document_id for path, row in bench.items().items()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.files, "create", full)
    for file in bench.folder.rglob("*.txt"):
        file.write_text("Changed. " * 5)
    bulk_id = bench.begin()
    found = bench.run(bulk_id, 3)
    assert (found.state, found.error_code) == ("failed", "internal_error")
    assert {path: row.document_id for path, row in bench.items().items()} == before
    assert {row.error_code for row in bench.items().values()} == {None}


def test_a_file_that_cannot_be_read_now_keeps_its_document(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(bench.begin())
    before = {path: row.document_id for path, row in bench.items().items()}

    def away(*_: Any) -> bytes:
        raise SourceUnavailable("It cannot be read: a hiccup")

    for file in bench.folder.rglob("*.txt"):
        file.write_text(file.read_text())
    monkeypatch.setattr(Reading, "read", away)
    found = bench.run(bench.begin())
    assert {line["error"]["code"] for line in bench.lines(found)} == {"source_away"}
    assert {path: row.document_id for path, row in bench.items().items()} == before
    with bench.db.session() as session:
        of = collections.of_source(session, bench.owner.tenant_id, str(bench.folder), None)
        assert collections.counts(session, of) == collections.Counts(0, 5, 0)
    monkeypatch.undo()
    assert bench.run(bench.begin()).state == "succeeded"
    after = bench.items()
    assert {path: row.document_id for path, row in after.items()} == before
    assert {row.error_code for row in after.values()} == {None}
