"""Bulk jobs from a folder to a bundle, with the stand-in engine; and what a kill at any point leaves."""

import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from store import blobs, bulk, collections, jobs, prompt_templates, workers
from store.bulk import NewBulk, NotRetryable, results
from store.collections import files as collection_files
from store.database import Database
from store.jobs.admission import Ask, Owner
from store.settings import Settings
from store.sources.folders import Grant, Reading, Sources
from store.sources.listing import Entry, SourceUnavailable
from store.tables.billing import Bill
from store.tables.bulk import Bulk, BulkPart
from store.tables.collections import CollectionItem
from store.tables.documents import Document
from store.tables.jobs import Job
from store.workers import ModelCard
from tests.support.standin import right_answer
from worker.bulk import bundle, source_refresh, text_parts
from worker.bulk.conductor import Conductor
from worker.bulk.ingest import Ingest
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import drain_jobs

ASK = Ask(task="summarize", template="key-points", points=1, questions=("Who?",), policy="window")
PROMPTS = ("Key point 1:", "Who?")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the documents lie, and where bundles go."""
    source = tmp_path / "source"
    for number in range(5):
        (source / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        (source / f"{number % 2}" / f"{number}.txt").write_text(f"Document {number}. " * 12)
    (tmp_path / "target").mkdir()
    return source


class Bench:
    """A conductor and a worker that a test sets going."""

    def __init__(
        self, config: Settings, db: Database, process: WorkerProcess, folder: Path, tenant: str
    ) -> None:
        self.config, self.db, self.process, self.folder = config, db, process, folder
        self.files = blobs.connect(config)
        self.owner = Owner(tenant, None, "default")
        allowed = Sources([Grant(str(folder)), Grant(str(folder.parent / "target"), write=True)])
        self.conductor = Conductor(config, db, self.files, allowed)
        card = ModelCard("small", "r", 1024, 256, 100, "cd" * 32, ["namm", "window"], [])
        with db.session() as session:
            workers.advertise(session, "wrk_test", card, loaded=True)

    def begin(self, ask: Ask = ASK, **options: Any) -> str:
        with self.db.session() as session:
            if "documents" not in options:
                found = collections.of_source(session, self.owner.tenant_id, str(self.folder), None)
                options |= {"collection_id": found.id, "collection_name": found.name}
            return bulk.create(session, self.owner, NewBulk(ask, **options)).id

    def run(self, bulk_id: str, rounds: int = 200) -> Bulk:
        for _ in range(rounds):
            self.conductor.round()
            drain_jobs(self.process)
            found = self.look(bulk_id)
            if found.state in bulk.ENDED:
                return found
        raise AssertionError(f"{bulk_id} is still {found.state}")

    def look(self, bulk_id: str) -> Bulk:
        with self.db.session() as session:
            return bulk.get(session, self.owner.tenant_id, bulk_id)

    def items(self) -> dict[str, CollectionItem]:
        with self.db.session() as session:
            found = collections.of_source(session, self.owner.tenant_id, str(self.folder), None)
            return {
                row.path: row for row in collections.items(session, found.tenant_id, found.id, limit=1000)
            }

    def blobs(self) -> int:
        return len(self.files.names(f"documents/{self.owner.tenant_id}"))

    def counts(self, bulk_id: str) -> dict[str, int]:
        with self.db.session() as session:
            return bulk.count(session, bulk.get(session, self.owner.tenant_id, bulk_id))

    def read(self, found: Bulk, name: str) -> str:
        with self.files.open(f"{found.bundle_key}/{name}") as file:
            return file.read().decode()

    def lines(self, found: Bulk) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read(found, bundle.DOCUMENTS).splitlines()]


@pytest.fixture
def bench(config: Settings, db: Database, process: WorkerProcess, folder: Path, tenant: str) -> Bench:
    return Bench(config, db, process, folder, tenant)


def test_a_folder_becomes_a_bundle(bench: Bench) -> None:
    target = bench.folder.parent / "target"
    found = bench.run(bench.begin(destination=str(target)))
    assert (found.state, found.error_code, found.delivery_error) == ("succeeded", None, None)
    lines = bench.lines(found)
    assert [line["path"] for line in lines] == ["0/0.txt", "0/2.txt", "0/4.txt", "1/1.txt", "1/3.txt"]
    for line in lines:
        text = (bench.folder / line["path"]).read_bytes()
        assert line["summary"] == [right_answer(text, PROMPTS[0])]
        assert line["answers"] == [{"prompt": "Who?", "text": right_answer(text, "Who?")}]
        assert [point["located"] for point in line["points"]] == [False]
        assert (line["state"], line["strategy"], line["error"]) == ("succeeded", "whole", None)
        assert line["usage"]["tokens_document"] == len(text)
        assert line["spent"][0]["cost"]["measurement"] == "derived"
    totals = json.loads(bench.read(found, bundle.TOTALS))
    assert (totals["documents"], totals["states"], totals["digest"]) == (5, {"succeeded": 5}, {"made": True})
    for name in bundle.FILES:
        assert (target / found.id / name).read_text() == bench.read(found, name)
    digest = bench.read(found, bundle.DIGEST)
    assert "5 of 5 documents done." in digest
    assert "(unlocated)" in digest
    assert "## 1/3.txt" in digest


def test_the_digest_is_the_models_own_reading_of_the_summaries(bench: Bench) -> None:
    found = bench.run(bench.begin())
    with bench.db.session() as session:
        job = session.get_one(Job, found.digest_job_id)
        result = jobs.result(session, job.tenant_id, job.id)
    assert job.prompts == [PROMPTS[0]]
    assert job.document_id == found.digest_document_id
    assert result is not None
    text = (
        "\n\n".join(f"{line['path']}\n{PROMPTS[0]} {line['summary'][0]}" for line in bench.lines(found))
        + "\n"
    )
    assert result.answers[0]["text"] == right_answer(text.encode(), PROMPTS[0])


def test_the_digest_goes_before_documents_of_bulk_jobs_that_came_later(bench: Bench) -> None:
    found = bench.run(bench.begin(replace(ASK, priority=3)))
    with bench.db.session() as session:
        jobs_of = session.scalars(select(Job).where(Job.bulk_id == found.id)).all()
    assert {job.priority for job in jobs_of if job.id != found.digest_job_id} == {3}
    assert {job.priority for job in jobs_of if job.id == found.digest_job_id} == {4}


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


def test_a_bulk_job_of_which_nothing_succeeds_has_failed(bench: Bench) -> None:
    found = bench.run(bench.begin(replace(ASK, questions=("refuse-now",))))
    assert (found.state, found.error_code) == ("failed", "nothing_succeeded")
    assert {line["state"] for line in bench.lines(found)} == {"failed"}


def test_an_empty_folder_is_no_failure(bench: Bench) -> None:
    for file in bench.folder.rglob("*.txt"):
        file.unlink()
    found = bench.run(bench.begin())
    assert (found.state, bench.lines(found)) == ("succeeded", [])
    assert "0 of 0 documents" in bench.read(found, bundle.DIGEST)


def test_a_source_that_is_away_fails_the_bulk_job_and_says_why(bench: Bench) -> None:
    bulk_id = bench.begin()
    bench.folder.rename(bench.folder.parent / "elsewhere")
    found = bench.run(bulk_id)
    assert (found.state, found.error_code) == ("failed", "source_away")
    assert "does not exist" in (found.error_message or "")
    (bench.folder.parent / "elsewhere").rename(bench.folder)
    with bench.db.session() as session:
        bulk.retry(session, bench.owner.tenant_id, bulk_id)
    assert bench.run(bulk_id).state == "succeeded"


def test_only_what_changed_is_read_again_and_what_is_gone_is_said(bench: Bench) -> None:
    first = bench.run(bench.begin())
    (bench.folder / "0" / "0.txt").unlink()
    (bench.folder / "1" / "1.txt").write_text("Changed.")
    (bench.folder / "new.txt").write_text("New.")
    second = bench.run(bench.begin(only_changed=True))
    assert [line["path"] for line in bench.lines(second)] == ["1/1.txt", "new.txt"]
    assert json.loads(bench.read(second, bundle.TOTALS))["gone"] == ["0/0.txt"]
    other = bench.run(bench.begin(replace(ASK, points=2), only_changed=True))
    assert len(bench.lines(other)) == 5  # something else was asked
    assert len(bench.lines(first)) == 5
    nothing = bench.run(bench.begin(only_changed=True))
    assert bench.lines(nothing) == []


def test_a_quiet_night_is_no_failure_for_what_could_not_be_read_before_either(bench: Bench) -> None:
    bench.run(bench.begin())
    (bench.folder / "latin.txt").write_bytes(b"caf\xe9")
    for expected in ("failed", "succeeded"):  # told once
        found = bench.run(bench.begin(only_changed=True))
        assert found.state == expected
        assert [line["error"]["code"] for line in bench.lines(found)] == ["document_not_text"]
    (bench.folder / "1" / "1.txt").write_text("refuse-now")
    found = bench.run(bench.begin(replace(ASK, questions=("refuse-now",)), only_changed=True))
    assert found.state == "failed"  # what could be read was tried, and nothing of it was done


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


def test_long_documents_are_read_in_parts_when_asked_to(bench: Bench) -> None:
    config = bench.config.model_copy(update={"bulk_part_characters": 100})
    bench.conductor = Conductor(config, bench.db, bench.files, bench.conductor._sources)
    (bench.folder / "short.txt").write_text("Short.")
    found = bench.run(bench.begin(strategy="map_reduce"))
    lines = {line["path"]: line for line in bench.lines(found)}
    assert (lines["short.txt"]["strategy"], lines["short.txt"]["parts"]) == ("whole", None)
    long = lines["0/0.txt"]
    assert (long["state"], long["strategy"], long["parts"]) == ("succeeded", "map_reduce", 2)
    assert "Read in 2 parts." in bench.read(found, bundle.DIGEST)
    with bench.db.session() as session:
        job = session.get_one(Job, long["job_id"])
        with bench.files.open(session.get_one(Document, job.document_id).blob_key) as file:
            text = file.read().decode()
        line = next(results.all_lines(session, found))
        quoting = replace(line, answers=[{"prompt": PROMPTS[0], "text": "Document 0."}])
        [answer] = bench.conductor._finisher.in_the_original(session, quoting, 1).answers
    assert (answer["points"][0]["start"], answer["points"][0]["occurrences"]) == (0, 12)
    assert text.startswith("Part 1\nKey point 1: ")
    assert text.count("Who? ") == 2


def test_cancelling_keeps_what_was_done(bench: Bench) -> None:
    config = bench.config.model_copy(update={"bulk_window": 2})
    bench.conductor = Conductor(config, bench.db, bench.files, bench.conductor._sources)
    bulk_id = bench.begin()
    for _ in range(3):
        bench.conductor.round()
    drain_jobs(bench.process)
    bench.conductor.round()
    with bench.db.session() as session:
        assert bulk.cancel(session, bench.owner.tenant_id, bulk_id).state == "cancelling"
    found = bench.run(bulk_id)
    states = [line["state"] for line in bench.lines(found)]
    assert (found.state, states) == ("cancelled", ["succeeded"] * 2 + ["cancelled"] * 3)
    assert "There is no summary of all documents" in bench.read(found, bundle.DIGEST)
    with bench.db.session() as session:
        bulk.cancel(session, bench.owner.tenant_id, bulk_id)
        bulk.retry(session, bench.owner.tenant_id, bulk_id)
    again = bench.run(bulk_id)
    assert (again.state, bench.counts(bulk_id)) == ("succeeded", {"succeeded": 5})


def test_without_a_worker_it_waits_and_says_so(bench: Bench) -> None:
    with bench.db.session() as session:
        workers.mark_stopped(session, "wrk_test")
    bulk_id = bench.begin(replace(ASK, model=None))
    for _ in range(4):
        bench.conductor.round()
    found = bench.look(bulk_id)
    assert (found.state, found.error_code, bench.counts(bulk_id)) == ("running", "no_worker", {"pending": 5})
    with bench.db.session() as session:
        workers.register(session, "wrk_other", "here", "cpu")
        card = ModelCard("small", "r", 1024, 256, 100, "cd" * 32, ["namm", "window"], [])
        workers.advertise(session, "wrk_other", card, loaded=True)
    assert bench.run(bulk_id).error_code is None


def test_what_cannot_be_asked_for_fails_every_document(bench: Bench) -> None:
    found = bench.run(bench.begin(replace(ASK, template="gone")))
    assert found.state == "failed"
    assert {line["error"]["code"] for line in bench.lines(found)} == {"unknown_template"}


def test_a_bundle_that_cannot_be_delivered_can_be_fetched_and_tried_again(bench: Bench) -> None:
    target = bench.folder.parent / "target"
    bulk_id = bench.begin(destination=f"{target}/new")
    (target / "new").write_text("a file where a folder should be")
    found = bench.run(bulk_id)
    assert (found.state, found.delivered_at) == ("succeeded", None)
    assert found.delivery_error
    assert len(bench.lines(found)) == 5
    (target / "new").unlink()
    with bench.db.session() as session:
        bulk.retry(session, bench.owner.tenant_id, bulk_id)
    again = bench.run(bulk_id)
    assert (again.delivery_error, (target / "new" / bulk_id / bundle.DIGEST).is_file()) == (None, True)
    with bench.db.session() as session, pytest.raises(NotRetryable):
        bulk.retry(session, bench.owner.tenant_id, bulk_id)


def test_names_and_things_that_are_no_documents_do_not_stop_the_rest(bench: Bench) -> None:
    (bench.folder / os.fsdecode(b"bad\xff.txt")).write_text("x")
    deep = bench.folder.joinpath(*[letter * 240 for letter in "abcd"])
    deep.mkdir(parents=True)
    (deep / ("e" * 200 + ".txt")).write_text("x")
    os.mkfifo(bench.folder / "pipe.txt")
    found = bench.run(bench.begin())
    codes = [line["error"] and line["error"]["code"] for line in bench.lines(found)]
    assert sorted(codes, key=str) == [None] * 5 + ["path_invalid"] * 2


def test_a_listing_gives_others_a_turn_and_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_refresh, "STEP_FILES", 2)
    bulk_id = bench.begin()
    for read in (2, 4, 5):
        assert bench.look(bulk_id).state == "listing"
        bench.conductor._list(bulk_id)
        assert len(bench.items()) == read
    assert bench.run(bulk_id).state == "succeeded"
    assert bench.conductor._refreshes._looks == {}
    for file in bench.folder.rglob("*.txt"):
        file.write_text("Changed. " * 5)
    other = bench.begin()
    bench.conductor._list(other)
    with bench.db.session() as session:
        bulk.cancel(session, bench.owner.tenant_id, other)
    assert (bench.run(other).state, bench.counts(other)) == ("cancelled", {})


def test_a_defect_while_listing_ends_the_bulk_job_and_can_be_retried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(collection_files, "record_listing", defect)
    bulk_id = bench.begin()
    found = bench.run(bulk_id)
    assert (found.state, found.error_code) == ("failed", "internal_error")
    monkeypatch.undo()
    with bench.db.session() as session:
        bulk.retry(session, bench.owner.tenant_id, bulk_id)
    assert bench.run(bulk_id).state == "succeeded"


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


def test_a_folder_that_cannot_be_read_takes_nothing_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(bench.begin())
    before = {path: row.deleted_at for path, row in bench.items().items()}
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if os.fspath(path) == str(bench.folder / "1"):
            raise PermissionError(13, "Not for you")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = bench.run(bench.begin())
    assert (found.state, found.error_code) == ("failed", "source_away")
    assert found.error_message is not None
    assert "folder '1'" in found.error_message
    assert {path: row.deleted_at for path, row in bench.items().items()} == before


def test_a_source_that_is_too_large_is_refused(bench: Bench) -> None:
    allowed = Sources([Grant(str(bench.folder))], 4)
    bench.conductor = Conductor(bench.config, bench.db, bench.files, allowed)
    found = bench.run(bench.begin())
    assert (found.state, found.error_code) == ("failed", "source_too_large")
    assert bench.items() == {}


def test_a_collection_may_hold_more_files_than_a_statement_has_parameters(bench: Bench) -> None:
    with bench.db.session() as session:
        found = collections.of_source(session, bench.owner.tenant_id, str(bench.folder), None)
        session.execute(
            text(
                "INSERT INTO collection_items (collection_id, tenant_id, path, fingerprint, error_code) "
                "SELECT :id, :tenant, n::text, 'same', 'x' FROM generate_series(1, 70000) n"
            ),
            {"id": found.id, "tenant": found.tenant_id},
        )
    with bench.db.session() as session:
        entries = [Entry(str(n), 1, "same") for n in range(1, 70001)]
        assert collection_files.record_listing(session, found, entries) == []
        assert collection_files.record_listing(session, found, []) == []
        assert collections.counts(session, found).deleted == 70000


def test_a_statement_that_the_database_refuses_stops_nobody_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, whole = bench.begin(digest=False), bench.begin(digest=False)
    plain = Conductor.step

    def step(self: Conductor, bulk_id: str) -> bool:
        if bulk_id == broken:
            raise OperationalError("SELECT", {}, Exception("too many parameters"))
        return plain(self, bulk_id)

    monkeypatch.setattr(Conductor, "step", step)
    assert bench.run(whole).state == "succeeded"

    def gone() -> None:
        raise OperationalError("SELECT 1", {}, Exception("no connection"))

    monkeypatch.setattr(bench.db, "ping", gone)
    with pytest.raises(OperationalError):
        bench.conductor.round()


def test_a_refresh_that_fails_is_not_tried_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.db.session() as session:
        found = collections.of_source(session, bench.owner.tenant_id, str(bench.folder), None)
        session.execute(text("UPDATE collections SET glob = '**.txt' WHERE id = :id"), {"id": found.id})
    bench.conductor.round()
    with bench.db.session() as session:
        now = collections.get(session, found.tenant_id, found.id)
    assert (now.refresh_requested_at, "'**' must stand alone" in (now.refresh_error or "")) == (None, True)
    monkeypatch.setattr(collection_files, "record_listing", None)
    with bench.db.session() as session:
        session.execute(text("UPDATE collections SET glob = NULL WHERE id = :id"), {"id": found.id})
        collections.refresh(session, collections.get(session, found.tenant_id, found.id))
    bench.conductor.round()
    with bench.db.session() as session:
        now = collections.get(session, found.tenant_id, found.id)
    assert (now.refresh_requested_at, now.refresh_error) == (None, source_refresh._DEFECT)


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it runs, the open transaction is lost."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Lets the conductor die at its n-th commit, before or after it."""

    def arm(at: int) -> None:
        plain, left = Session.commit, [at]

        def commit(self: Session) -> None:
            left[0] -= 1
            if left[0] == 0:
                if at % 2:
                    plain(self)
                raise Killed
            plain(self)

        monkeypatch.setattr(Session, "commit", commit)

    yield arm
    monkeypatch.undo()


@pytest.mark.parametrize("at", range(1, 41, 3))
def test_a_kill_at_any_point_changes_nothing_in_the_bundle(
    bench: Bench, kill_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    (bench.folder / "bad.txt").write_bytes(b"\xff\xfe")
    bulk_id = bench.begin()
    kill_at(at)
    try:
        for _ in range(30):
            bench.conductor.round()
            drain_jobs(bench.process)
    except Killed:
        monkeypatch.undo()
        bench.process = WorkerProcess(bench.config, bench.db, "wrk_test")
    found = bench.run(bulk_id)
    lines = bench.lines(found)
    assert [line["path"] for line in lines] == [
        "0/0.txt",
        "0/2.txt",
        "0/4.txt",
        "1/1.txt",
        "1/3.txt",
        "bad.txt",
    ]
    assert [line["state"] for line in lines] == ["succeeded"] * 5 + ["failed"]
    for line in lines[:5]:
        text = (bench.folder / line["path"]).read_bytes()
        assert line["summary"] == [right_answer(text, PROMPTS[0])]
    with bench.db.session() as session:
        made = session.scalar(select(func.count()).select_from(Job).where(Job.bulk_id == bulk_id))
    assert made == 6  # five documents and the digest: nothing was done twice


def test_two_conductors_at_once_do_nothing_twice(bench: Bench) -> None:
    other = Conductor(bench.config, bench.db, bench.files, bench.conductor._sources)
    bulk_id = bench.begin()
    threads = [
        threading.Thread(target=lambda one=one: [one.round() for _ in range(20)])
        for one in (bench.conductor, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = bench.run(bulk_id)
    with bench.db.session() as session:
        made = session.scalar(select(func.count()).select_from(Job).where(Job.bulk_id == bulk_id))
    assert (found.state, made) == ("succeeded", 6)


def test_templates_of_a_tenant_are_versions(bench: Bench) -> None:
    with bench.db.session() as session:
        one = prompt_templates.add(session, bench.owner.tenant_id, "mine", "First {number}:", each_point=True)
        two = prompt_templates.add(
            session, bench.owner.tenant_id, "mine", "In {words} words.", each_point=False
        )
    assert (one.label, two.label) == ("mine@1", "mine@2")
    found = bench.run(bench.begin(replace(ASK, template="mine", words=30)))
    with bench.db.session() as session:
        job = session.get_one(Job, bench.lines(found)[0]["job_id"])
    assert (job.template, job.prompts) == ("mine@2", ["In 30 words.", "Who?"])


def in_parts(bench: Bench) -> None:
    config = bench.config.model_copy(update={"bulk_part_characters": 100})
    bench.conductor = Conductor(config, bench.db, bench.files, bench.conductor._sources)


def test_a_refusal_when_parts_are_put_together_ends_the_document(bench: Bench) -> None:
    in_parts(bench)
    with bench.db.session() as session:
        prompt_templates.add(session, bench.owner.tenant_id, "mine", "Briefly:", each_point=False)
    bulk_id = bench.begin(replace(ASK, template="mine"), strategy="map_reduce")
    for _ in range(8):
        bench.conductor.round()
    with bench.db.session() as session:
        session.execute(text("DELETE FROM prompt_templates"))
    found = bench.run(bulk_id)
    assert (found.state, found.error_code) == ("failed", "nothing_succeeded")
    assert {line["error"]["code"] for line in bench.lines(found)} == {"unknown_template"}


def test_parts_that_were_read_well_are_not_read_again(bench: Bench) -> None:
    in_parts(bench)
    bulk_id = bench.begin(strategy="map_reduce")
    for _ in range(8):
        bench.conductor.round()
    with bench.db.session() as session:
        first = select(BulkPart).where(BulkPart.bulk_id == bulk_id, BulkPart.seq == 0)
        one = session.scalars(first).first()
        assert one is not None
        jobs.cancel(session, bench.owner.tenant_id, one.job_id)
    found = bench.run(bulk_id)
    assert [line["state"] for line in bench.lines(found)] == ["failed"] + ["succeeded"] * 4
    with bench.db.session() as session:
        bulk.retry(session, bench.owner.tenant_id, bulk_id)
    found = bench.run(bulk_id)
    assert [line["state"] for line in bench.lines(found)] == ["succeeded"] * 5
    with bench.db.session() as session:
        tried = session.scalars(select(Job.state).where(Job.bulk_id == bulk_id, Job.bulk_seq == 0)).all()
        billed = session.scalar(select(func.sum(Bill.tokens_document)))
    assert sorted(tried) == [
        "cancelled",
        "succeeded",
        "succeeded",
        "succeeded",
    ]  # two parts, what came of them
    spent = sum(line["spent"][0]["tokens_document"] for line in bench.lines(found))
    totals = json.loads(bench.read(found, bundle.TOTALS))["spent"][0]["tokens_document"]
    assert spent <= totals == billed


def test_model_and_template_are_those_of_the_first_jobs(bench: Bench) -> None:
    config = bench.config.model_copy(update={"bulk_window": 2})
    bench.conductor = Conductor(config, bench.db, bench.files, bench.conductor._sources)
    mine = (bench.owner.tenant_id, "mine")
    with bench.db.session() as session:
        prompt_templates.add(session, *mine, "Briefly:", each_point=False)
    bulk_id = bench.begin(replace(ASK, template="mine", model=None))
    bench.conductor.round()
    bench.conductor.round()
    with bench.db.session() as session:
        prompt_templates.add(session, *mine, "At length:", each_point=False)
        workers.register(session, "wrk_other", "here", "cpu")
        card = ModelCard("large", "r", 1024, 256, 100, "cd" * 32, ["window"], [])
        workers.advertise(session, "wrk_other", card, loaded=True)
    found = bench.run(bulk_id)
    with bench.db.session() as session:
        asked = session.execute(
            select(Job.model, Job.template).where(Job.bulk_id == bulk_id).distinct()
        ).all()
    assert found.state == "succeeded"
    assert asked == [("small", "mine@1")]


def test_a_list_of_documents_cancelled_at_once_can_be_retried(
    bench: Bench, submit: Callable[..., Job]
) -> None:
    documents = [(f"{n}.txt", submit(text=b"One thing.").document_id) for n in range(2)]
    bulk_id = bench.begin(documents=documents)
    with bench.db.session() as session:
        bulk.cancel(session, bench.owner.tenant_id, bulk_id)
    assert bench.run(bulk_id).state == "cancelled"
    with bench.db.session() as session:
        bulk.retry(session, bench.owner.tenant_id, bulk_id)
    found = bench.run(bulk_id)
    assert (found.state, bench.counts(bulk_id)) == ("succeeded", {"succeeded": 2})


def test_a_digest_that_failed_is_retried_and_a_passed_deadline_forgotten(bench: Bench) -> None:
    bulk_id = bench.begin()
    found = bench.look(bulk_id)
    while found.digest_job_id is None:
        bench.conductor.round()
        found = bench.look(bulk_id)
        if found.digest_job_id is None:
            drain_jobs(bench.process)
    with bench.db.session() as session:
        jobs.cancel(session, bench.owner.tenant_id, found.digest_job_id)
        session.execute(text("UPDATE bulks SET deadline_at = now() - interval '1 hour'"))
    found = bench.run(bulk_id)
    assert "There is no summary of all documents" in bench.read(found, bundle.DIGEST)
    with bench.db.session() as session:
        assert bulk.retry(session, bench.owner.tenant_id, bulk_id).deadline_at is None
    found = bench.run(bulk_id)
    assert "Made by the model from the summaries below." in bench.read(found, bundle.DIGEST)
    with bench.db.session() as session, pytest.raises(NotRetryable):
        bulk.retry(session, bench.owner.tenant_id, bulk_id)


def test_a_collection_that_is_gone_is_said(bench: Bench) -> None:
    bulk_id = bench.begin()
    bench.folder.rename(bench.folder.parent / "elsewhere")
    assert bench.run(bulk_id).error_code == "source_away"
    with bench.db.session() as session:
        row = bulk.get(session, bench.owner.tenant_id, bulk_id)
        collections.drop(session, collections.get(session, row.tenant_id, row.collection_id or ""))
    with bench.db.session() as session:
        bulk.retry(session, bench.owner.tenant_id, bulk_id)
    found = bench.run(bulk_id)
    assert (found.state, found.error_code) == ("failed", "collection_gone")


@pytest.mark.parametrize(
    "text_of", ["a b c " * 50, "x" * 301, "one\n\ntwo\n\n" * 30, "\f".join("pages") * 40]
)
def test_parts_are_the_text_but_for_blank_ones(text_of: str) -> None:
    pieces = list(text_parts.split(io.StringIO(text_of), 100))
    assert "".join(pieces) == text_of
    assert all(len(piece) <= 100 for piece in pieces)
    assert list(text_parts.split(io.StringIO(" \n" * 200), 100)) == []
    assert list(text_parts.split(io.StringIO("short"), 100)) == ["short"]
