"""The jobs that a bulk job submits: which documents, model, template and priority, and what refuses them."""

import json
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import select

from store import bulk, prompt_templates, workers
from store.tables.jobs import Job
from store.workers import ModelCard
from tests.support.conductor_bench import ASK, Bench
from worker.bulk import bundle
from worker.bulk.conductor import Conductor


def test_the_digest_goes_before_documents_of_bulk_jobs_that_came_later(bench: Bench) -> None:
    found = bench.run(bench.begin(replace(ASK, priority=3)))
    with bench.db.session() as session:
        jobs_of = session.scalars(select(Job).where(Job.bulk_id == found.id)).all()
    assert {job.priority for job in jobs_of if job.id != found.digest_job_id} == {3}
    assert {job.priority for job in jobs_of if job.id == found.digest_job_id} == {4}


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
