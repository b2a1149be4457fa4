"""How bulk jobs end, and the delivery of their bundles."""

from dataclasses import replace

import pytest
from sqlalchemy import text

from store import bulk, jobs
from store.bulk import NotRetryable
from tests.support.conductor_bench import ASK, Bench
from worker.bulk import bundle
from worker.jobs.claim_loop import run_jobs


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


def test_a_digest_that_failed_is_retried_and_a_passed_deadline_forgotten(bench: Bench) -> None:
    bulk_id = bench.begin()
    found = bench.look(bulk_id)
    while found.digest_job_id is None:
        bench.conductor.round()
        found = bench.look(bulk_id)
        if found.digest_job_id is None:
            run_jobs(bench.process)
    with bench.db.session() as session:
        jobs.cancel(session, bench.owner.tenant_id, found.digest_job_id)
        session.execute(text("UPDATE bulks SET deadline_at = now() - interval '1 hour'"))
    found = bench.run(bulk_id)
    assert "There is no summary of all documents" in bench.read(found, bundle.DIGEST)
    with bench.db.session() as session:
        assert bulk.retry(session, bench.owner.tenant_id, bulk_id).deadline_at is None
    found = bench.run(bulk_id)
    assert "Written by the model from the summaries below." in bench.read(found, bundle.DIGEST)
    with bench.db.session() as session, pytest.raises(NotRetryable):
        bulk.retry(session, bench.owner.tenant_id, bulk_id)
