"""The claim loop: when it loads the model, claims jobs and ends; failures of Postgres and of the engine."""

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from store import blobs, workers
from store.database import Database
from store.jobs import leases
from store.scorers import registry
from store.settings import Settings
from tests.support.models import find_model
from tests.support.standin import Engine, right_answer
from tests.support.worker_jobs import Submit, look, result
from tests.unit.worker.conftest import TEXT
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs
from worker.loops.reaper import reap_once


def test_hints_without_work_do_not_load_the_model(process: WorkerProcess, db: Database) -> None:
    assert run_jobs(process) == 0
    with db.session() as session:
        assert find_model(session, "small", 60) is None


def test_loaded_model_is_registered(process: WorkerProcess, db: Database, submit: Submit) -> None:
    submit()
    run_jobs(process)
    with db.session() as session:
        served = find_model(session, "small", 60)
    assert served is not None
    assert (served.card.window, served.loaded, served.workers_live) == (1024, True, 1)


def test_unloadable_model_leaves_jobs_queued_and_says_why(
    config: Settings, db: Database, submit: Submit, process: WorkerProcess
) -> None:
    job = submit()
    broken = WorkerProcess(config.model_copy(update={"model": "unloadable"}), db, "wrk_test")
    with pytest.raises(Exception, match="no such model"):
        run_jobs(broken)
    assert look(db, job).state == "queued"
    with db.session() as session:
        served = find_model(session, "small", 60)
    assert served is not None
    assert served.errors == ["There is no such model."]


def test_several_slots_share_the_engine(config: Settings, db: Database, submit: Submit, tenant: str) -> None:
    with db.session() as session:
        workers.register(session, "wrk_test", "here", "cpu")
    process = WorkerProcess(config.model_copy(update={"slots": 3}), db, "wrk_test")
    made = [submit(TEXT + bytes([65 + n])) for n in range(5)]
    assert run_jobs(process) == 5
    for n, job in enumerate(made):
        kept = result(db, job)
        assert kept is not None
        assert kept.answers[0]["text"] == right_answer(TEXT + bytes([65 + n]), "Who?")


def test_company_of_a_broken_job_is_tried_again(
    config: Settings, db: Database, submit: Submit, process: WorkerProcess
) -> None:
    crowded = WorkerProcess(config.model_copy(update={"slots": 2}), db, "wrk_test")
    bad, good = submit(prompts=["break-later"], max_attempts=2), submit(max_attempts=9)
    run_jobs(crowded)
    assert (look(db, bad).state, look(db, bad).error_code) == ("failed", "internal_error")
    assert look(db, good).state == "succeeded"


def look_fails(monkeypatch: pytest.MonkeyPatch, asked: str, which: Callable[[int], bool]) -> None:
    """Postgres does not answer those looks (by their number) of the worker at `leases` or `workers`."""
    module = leases if asked == "claim" else workers
    original, count = getattr(module, asked), [0]

    def ask(*arguments: object, **named: object) -> object:
        count[0] += 1
        if which(count[0]):
            raise OperationalError("SELECT", {}, ConnectionResetError("on purpose"))
        return original(*arguments, **named)

    monkeypatch.setattr(module, asked, ask)


@pytest.mark.parametrize("asked", ["is_stopping", "claim"])
def test_postgres_hiccup_between_steps_costs_nothing(
    config: Settings, db: Database, submit: Submit, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    with db.session() as session:
        workers.register(session, "wrk_test", "here", "cpu")
    process = WorkerProcess(config.model_copy(update={"slots": 2, "progress_seconds": 1e-9}), db, "wrk_test")
    job = submit()
    look_fails(monkeypatch, asked, lambda number: number == 4)
    assert run_jobs(process) == 1
    done = look(db, job)
    assert (done.state, done.attempt, done.attempts_lost) == ("succeeded", 1, 0)
    second = submit()
    assert run_jobs(process) == 1
    assert look(db, second).state == "succeeded"


def test_postgres_away_for_long_frees_the_slot_for_the_next_drain(
    process: WorkerProcess, db: Database, config: Settings, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.config = config.model_copy(update={"lease_seconds": 0.1, "progress_seconds": 1e-9})
    job = submit()
    with monkeypatch.context() as patch:
        look_fails(patch, "is_stopping", lambda number: number > 3)
        with pytest.raises(OperationalError):
            run_jobs(process)
    assert look(db, job).state == "running"
    assert process.serve().engine.free_slots == 1
    process.config = config
    with db.session() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
    assert reap_once(db, blobs.connect(config), config).requeued == 1
    assert run_jobs(process) == 1
    done = look(db, job)
    assert (done.state, done.attempt, done.attempts_lost) == ("succeeded", 2, 1)


def test_jobs_that_end_on_arrival_do_not_keep_a_stopping_worker(
    process: WorkerProcess, db: Database, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = submit(prompts=["break-now"]), submit(prompts=["break-now"])
    admit = Engine.admit

    def stop(self: Engine, *arguments: object) -> object:
        with db.session() as session:
            workers.request_stop(session, "wrk_test")
        return admit(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "admit", stop)
    assert run_jobs(process) == 1
    assert (look(db, first).state, look(db, second).state) == ("failed", "queued")


def test_an_upload_is_looked_at_before_the_next_job(
    process: WorkerProcess, db: Database, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = submit(), submit()
    seen: list[tuple[str, str]] = []
    upload = {"kind": "safetensors", "upload_key": "k", "upload_sha256": "s", "actor": "key_1"}
    with db.session() as session:
        row, _ = registry.upload(session, name="namm", version="7", **upload)

    def looked_at(given: WorkerProcess) -> None:
        seen.append((look(db, first).state, look(db, second).state))
        with db.session() as session:
            registry.mark_rejected(session, session.merge(row, load=True), "scorer_unreadable", "no")

    monkeypatch.setattr("worker.jobs.claim_loop.verify_uploads", looked_at)
    assert run_jobs(process) == 2
    assert seen == [("queued", "queued")], "once, and with nothing under way"
