"""Jobs resumed from snapshots, and snapshots that cannot be used."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import text

from store import blobs, workers
from store.database import Database
from store.errors import LeaseLost
from store.jobs import leases
from store.settings import Settings
from tests.support.standin import Engine, Request, Run, right_answer
from tests.support.worker_jobs import Submit, after_steps, ledger_of, look, result
from tests.unit.worker.conftest import TEXT
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs
from worker.jobs.snapshots import Snapshots
from worker.loops.reaper import reap_once


def test_stopping_worker_gives_the_job_back_and_the_next_resumes_it(
    process: WorkerProcess, db: Database, config: Settings, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(max_attempts=1)

    def stop() -> None:
        with db.session() as session:
            workers.request_stop(session, "wrk_test")

    with monkeypatch.context() as patch:
        after_steps(patch, 10, stop)
        run_jobs(process)
    given = look(db, job)
    assert (given.state, given.attempts_lost) == ("queued", 0)
    assert given.snapshot_tokens
    with db.session() as session:
        workers.register(session, "wrk_next", "here", "cpu")
    run_jobs(WorkerProcess(config, db, "wrk_next"))
    kept = result(db, job)
    assert kept is not None
    assert kept.answers[0]["text"] == right_answer(TEXT, "Who?")
    # Each attempt is billed for its own share: together they read the document once.
    attempts = {
        line.attempt: line.quantity for line in ledger_of(db, job) if line.meter == "device_seconds.read"
    }
    assert sorted(attempts) == [1, 2]
    bytes_seconds = [line for line in ledger_of(db, job) if line.meter == "kv_byte_seconds.dense"]
    assert all(line.quantity >= 0 for line in bytes_seconds)
    assert not any(line.waste for line in ledger_of(db, job))


def test_answers_given_before_a_stop_are_not_given_again(
    process: WorkerProcess, db: Database, config: Settings, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.snapshot_chunks = 1  # all of the document is in a snapshot before the first answer
    job = submit(prompts=["Who?", "Why?", "When?", "Where?"])
    original = Engine.step

    def step(self: Engine) -> list[object]:
        if any(len(run.answers) == 2 for run in self.runs):
            with db.session() as session:
                workers.request_stop(session, "wrk_test")
        return original(self)  # type: ignore[return-value]

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", step)
        run_jobs(process)
    key = look(db, job).snapshot_key
    assert key is not None
    with process.blobs.open(key) as file:
        assert len(json.load(file)["answers"]) >= 2
    with db.session() as session:
        workers.register(session, "wrk_next", "here", "cpu")
    run_jobs(WorkerProcess(config, db, "wrk_next"))
    kept = result(db, job)
    assert kept is not None
    assert [answer["prompt"] for answer in kept.answers] == ["Who?", "Why?", "When?", "Where?"]
    assert kept.answers[3]["text"] == right_answer(TEXT, "Where?")


def test_a_lease_lost_while_giving_back_costs_no_earlier_snapshot(
    process: WorkerProcess, db: Database, config: Settings, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both snapshots are taken at the end of the document; each needs a name of its own."""
    config.snapshot_chunks = 1
    job = submit(prompts=["Who?", "Why?", "When?", "Where?"])
    original, record = Engine.step, leases.record_snapshot
    stopping = []

    def step(self: Engine) -> list[object]:
        if any(len(run.answers) == 2 for run in self.runs):
            stopping.append(True)
            with db.session() as session:
                workers.request_stop(session, "wrk_test")
        return original(self)  # type: ignore[return-value]

    def lose(*arguments: object, **named: object) -> object:
        if stopping:
            raise LeaseLost("another worker has the job")
        return record(*arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", step)
        patch.setattr(leases, "record_snapshot", lose)
        run_jobs(process)
    key = look(db, job).snapshot_key
    assert stopping
    assert key is not None
    with process.blobs.open(key) as file:
        assert json.load(file)["answers"] == []


def test_lost_attempt_is_resumed_and_its_rest_is_waste(
    process: WorkerProcess, db: Database, config: Settings, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALIMPSEST_STANDIN_SECONDS", "0.002")
    job = submit()

    class Killed(BaseException):
        """Like SIGKILL: no handler of the worker's sees it."""

    def die() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        after_steps(patch, 12, die)
        with pytest.raises(Killed):
            run_jobs(process)
    with db.session() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
    assert reap_once(db, blobs.connect(config), config).requeued == 1
    lost = ledger_of(db, job)
    assert {line.seq for line in lost if line.meter == "device_seconds.read"} == {0, 1}
    assert all(line.waste == (line.seq == 1) for line in lost)
    process.forget_engine()
    run_jobs(process)
    done = look(db, job)
    assert (done.state, done.attempt, done.attempts_lost) == ("succeeded", 2, 1)
    kept = result(db, job)
    assert kept is not None
    assert kept.answers[0]["text"] == right_answer(TEXT, "Who?")
    read = [
        line.quantity for line in ledger_of(db, job) if line.meter == "device_seconds.read" and not line.waste
    ]
    assert sum(read) == Decimal("0.002") * -(-len(TEXT) // 64)


def test_snapshots_go_when_the_job_has_ended(
    process: WorkerProcess, db: Database, config: Settings, submit: Submit
) -> None:
    job = submit()
    run_jobs(process)
    files = blobs.connect(config)
    assert len(files.names("snapshots")) == 1
    assert look(db, job).snapshot_key
    reap_once(db, files, config)
    assert files.names("snapshots") == []
    assert look(db, job).snapshot_key is None


@pytest.mark.parametrize("damage", ["UPDATE jobs SET snapshot_scorer_sha256 = 'other'", "broken file"])
def test_useless_snapshot_is_not_used(
    process: WorkerProcess,
    db: Database,
    config: Settings,
    submit: Submit,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    job = submit(policy="namm")

    def stop() -> None:
        with db.session() as session:
            workers.request_stop(session, "wrk_test")

    with monkeypatch.context() as patch:
        after_steps(patch, 10, stop)
        run_jobs(process)
    with db.session() as session:
        if damage.startswith("UPDATE"):
            session.execute(text(damage))
        session.execute(text("UPDATE workers SET stopping_at = NULL"))
    key = look(db, job).snapshot_key
    assert key is not None
    if damage == "broken file":
        with blobs.connect(config).create(key) as file:
            file.write(b"{")
    used: list[object] = []
    admit = Engine.admit
    monkeypatch.setattr(
        Engine,
        "admit",
        lambda self, request, snapshot: used.append(snapshot) or admit(self, request, snapshot),
    )
    run_jobs(process)
    assert used[-1] is None
    assert len(used) == (2 if damage == "broken file" else 1)
    if damage == "broken file":
        assert not blobs.connect(config).exists(key)
    assert look(db, job).state == "succeeded"
    kept = result(db, job)
    assert kept is not None
    assert kept.answers[0]["text"] == right_answer(TEXT, "Who?")


def test_a_document_that_is_read_again_gets_snapshots_from_its_beginning_on(
    process: WorkerProcess, submit: Submit
) -> None:
    job = submit()
    job.lease_token = 1
    snapshots = Snapshots(job, process, lambda act: None)
    snapshots.tokens = 5000  # of the first reading
    run = Run(Request(Path("nowhere"), ("Who?",)), phase="reading", tokens_read=64)
    assert not snapshots.due(run)
    run.tokens_read = 128  # one snapshot every 128 tokens
    assert snapshots.due(run)
