"""Collections refreshed from their sources: in steps, past defects, and from sources that cannot be read."""

import os
from typing import Any

import pytest
from sqlalchemy import text

from store import bulk, collections
from store.collections import files as collection_files
from store.sources.folders import Grant, Sources
from store.sources.listing import Entry
from tests.support.conductor_bench import Bench
from worker.bulk import source_refresh
from worker.bulk.conductor import Conductor


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


def test_a_listing_gives_others_a_turn_and_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_refresh, "STEP_FILES", 2)
    bulk_id = bench.begin()
    for read in (2, 4, 5):
        assert bench.look(bulk_id).state == "listing"
        bench.conductor._list(bulk_id)
        assert len(bench.items()) == read
    assert bench.run(bulk_id).state == "succeeded"
    assert bench.conductor._refreshes._in_progress == {}
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
