"""Shadow runs: after the answer, beside the bill, and never in anybody's way."""

from collections.abc import Callable

import pytest
from sqlalchemy import select, text

from store import jobs, workers
from store.billing import ledger
from store.database import Database
from store.scorers.serving import Alias
from store.settings import Settings
from store.tables.jobs import Job
from store.tables.scorers import ScorerVersion, ShadowRun
from tests.support.registry import DAMAGES, activate, add_standin
from tests.support.standin import Engine, Run
from tests.unit.worker.conftest import TEXT
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs


@pytest.fixture
def canary(process: WorkerProcess, db: Database) -> ScorerVersion:
    """Version 2 serves; 3 is to read every document beside it."""
    activate(db, add_standin(db, process.blobs, "2"))
    row = add_standin(db, process.blobs, "3")
    activate(db, row, alias=Alias.CANARY, percent=0, shadow_percent=100)
    return row


def shadows(db: Database) -> list[ShadowRun]:
    with db.session() as session:
        return list(session.scalars(select(ShadowRun)))


def state(db: Database, job: Job) -> str:
    with db.session() as session:
        return jobs.get(session, job.tenant_id, job.id).state


def test_a_shadow_reads_what_was_answered_and_books_nothing(
    process: WorkerProcess, db: Database, submit: Callable[..., Job], canary: ScorerVersion, monkeypatch
) -> None:
    monkeypatch.setenv("PALIMPSEST_STANDIN_SECONDS", "0.001")
    seen: list[tuple[str, str]] = []
    job = submit(policy="namm", prompts=["nul", "Why?"])
    admit = Engine.admit

    def note(self: Engine, request, snapshot=None):
        with db.session() as session:
            row = jobs.get(session, job.tenant_id, job.id)
            seen.append((request.scorer.label, row.state))
        return admit(self, request, snapshot)

    monkeypatch.setattr(Engine, "admit", note)
    run_jobs(process)
    assert seen == [("namm@2", "running"), ("namm@3", "succeeded")]
    [found] = shadows(db)
    assert (found.job_id, found.version_id, found.stable) == (job.id, canary.id, "namm@2")
    assert (found.outcome, found.answers, found.agreed, found.error) == ("answered", 2, 0, None)
    assert found.device_seconds > 0
    with db.session() as session:
        lines = ledger.lines(session, job.tenant_id, job.id)
    assert {line.attempt for line in lines} == {1}
    read = [float(line.quantity) for line in lines if line.meter == "device_seconds.read"]
    assert read == [pytest.approx(0.001 * -(-len(TEXT) // 64))], "one reading is billed"
    assert process.serve().engine.free_slots == 1


def test_equal_answers_agree(process: WorkerProcess, db: Database, submit: Callable[..., Job]) -> None:
    activate(db, add_standin(db, process.blobs, "2", "same"))
    same = add_standin(db, process.blobs, "3", "same")
    activate(db, same, alias=Alias.CANARY, percent=0, shadow_percent=100)
    submit(policy="namm", prompts=["Who?", "Why?"])
    run_jobs(process)
    assert [(run.answers, run.agreed) for run in shadows(db)] == [(2, 2)]


@pytest.mark.parametrize("damage", [*DAMAGES, "refuse", "break"])
def test_a_failing_shadow_touches_no_job(
    process: WorkerProcess, db: Database, submit: Callable[..., Job], canary, monkeypatch, damage: str
) -> None:
    if damage in DAMAGES:
        DAMAGES[damage](process.blobs, canary)
    else:
        from tests.support.standin import Refusal, Run

        read = Run._read

        def fail(self: Run, pause: float) -> None:
            if self.request.scorer is not None and self.request.scorer.version == "3":
                raise Refusal("no", "No.") if damage == "refuse" else RuntimeError("broken on purpose")
            read(self, pause)

        monkeypatch.setattr(Run, "_read", fail)
    made = [submit(policy="namm") for _ in range(3)]
    assert run_jobs(process) == 3
    assert [state(db, job) for job in made] == ["succeeded"] * 3
    found = shadows(db)
    assert len(found) == 3
    assert all(run.error and run.agreed == 0 for run in found)
    assert {run.outcome for run in found} == {"not_made" if damage in DAMAGES else "broke"}


def test_a_shadow_that_breaks_the_engine_costs_the_jobs_beside_it_no_attempt(
    config: Settings, db: Database, submit: Callable[..., Job], canary: ScorerVersion, monkeypatch
) -> None:
    with db.session() as session:
        workers.register(session, "wrk_test", "here", "cpu")
    crowded = WorkerProcess(config.model_copy(update={"slots": 2}), db, "wrk_test")
    read = Run._read

    def fail(self: Run, pause: float) -> None:
        if self.request.scorer is not None and self.request.scorer.version == "3":
            raise RuntimeError("broken on purpose")
        read(self, pause)

    monkeypatch.setattr(Run, "_read", fail)
    quick, slow = submit(b"short", policy="namm"), submit(policy="namm", max_attempts=1)
    run_jobs(crowded)
    assert (state(db, quick), state(db, slow)) == ("succeeded", "succeeded")
    with db.session() as session:
        done = jobs.get(session, slow.tenant_id, slow.id)
    assert (done.attempt, done.attempts_lost) == (2, 0)
    last = submit(b"short", policy="namm")
    run_jobs(crowded)
    outcomes = {run.job_id: run.outcome for run in shadows(db)}
    assert outcomes == {quick.id: "not_made", last.id: "broke"}, "alone in the engine, it was to blame"


def test_a_worker_that_is_to_stop_leaves_its_shadow(
    process: WorkerProcess, db: Database, submit: Callable[..., Job], canary, monkeypatch
) -> None:
    job = submit(policy="namm")
    step = Engine.step

    def stop(self: Engine):
        if any(run.request.scorer.version == "3" for run in self.runs):
            with db.session() as session:
                workers.request_stop(session, "wrk_test")
        return step(self)

    monkeypatch.setattr(Engine, "step", stop)
    run_jobs(process)
    assert state(db, job) == "succeeded"
    assert shadows(db) == []
    assert process.serve().engine.free_slots == 1


def test_jobs_that_fail_have_no_shadow(process, db, submit, canary) -> None:
    submit(policy="namm", prompts=["refuse-later"])
    run_jobs(process)
    assert shadows(db) == []
    with db.session() as session:
        assert session.scalar(text("SELECT count(*) FROM jobs WHERE state = 'failed'")) == 1


def test_a_canary_reads_beside_the_bundled_scorer_too(
    process: WorkerProcess, db: Database, submit: Callable[..., Job]
) -> None:
    canary = add_standin(db, process.blobs, "3")
    activate(db, canary, alias=Alias.CANARY, percent=0, shadow_percent=100)
    job = submit(policy="namm")
    run_jobs(process)
    [shadow] = shadows(db)
    assert (shadow.job_id, shadow.version_id, shadow.stable) == (job.id, canary.id, "namm@1")
