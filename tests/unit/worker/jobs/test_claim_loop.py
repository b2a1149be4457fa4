"""A worker process takes jobs, works them off and survives every one of them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from store import blobs, jobs, workers
from store.billing import ledger
from store.database import Database
from store.errors import LeaseLost
from store.jobs import leases, reaper
from store.scorers import registry
from store.settings import Settings
from store.tables.billing import UsageLine
from store.tables.jobs import Job, Result
from tests.support.models import find_model
from tests.support.standin import REVISION, Engine, right_answer
from tests.unit.worker.conftest import TEXT
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import drain_jobs
from worker.loops.reaper import reap_once

Submit = Callable[..., Job]


def look(db: Database, job: Job) -> Job:
    with db.session() as session:
        return jobs.get(session, job.tenant_id, job.id)


def result(db: Database, job: Job) -> Result | None:
    with db.session() as session:
        return jobs.result(session, job.tenant_id, job.id)


def ledger_of(db: Database, job: Job) -> list[UsageLine]:
    with db.session() as session:
        return ledger.lines(session, job.tenant_id, job.id)


def test_a_job_is_answered_with_result_ledger_and_pins(
    process: WorkerProcess, db: Database, submit: Submit
) -> None:
    job = submit(prompts=["Who?", "Why?"], policy="namm")
    assert drain_jobs(process) == 1
    done = look(db, job)
    assert (done.state, done.scorer, done.model_revision) == ("succeeded", "namm@1", REVISION)
    assert (done.progress_tokens_done, done.progress_tokens_total) == (len(TEXT), len(TEXT))
    kept = result(db, job)
    assert kept is not None
    assert kept.complete
    assert [answer["text"] for answer in kept.answers] == [
        right_answer(TEXT, "Who?"),
        right_answer(TEXT, "Why?"),
    ]
    lines = {line.meter: line.quantity for line in ledger_of(db, job)}
    assert lines["tokens.document"] == len(TEXT)
    assert lines["kv_bytes.dense"] == 100 * len(TEXT)


def test_hints_without_work_do_not_load_the_model(process: WorkerProcess, db: Database) -> None:
    assert drain_jobs(process) == 0
    with db.session() as session:
        assert find_model(session, "small", 60) is None


def test_loaded_model_is_registered(process: WorkerProcess, db: Database, submit: Submit) -> None:
    submit()
    drain_jobs(process)
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
        drain_jobs(broken)
    assert look(db, job).state == "queued"
    with db.session() as session:
        served = find_model(session, "small", 60)
    assert served is not None
    assert served.errors == ["There is no such model."]


@pytest.mark.parametrize(
    ("prompt", "changes", "code"),
    [
        ("refuse-now", {}, "prompt_too_long"),
        ("refuse-later", {}, "document_not_text"),
        ("break-now", {}, "internal_error"),
        ("break-later", {}, "internal_error"),
        ("Who?", {"policy": "namm", "scorer_requested": "nobody"}, "unknown_scorer"),
    ],
)
def test_a_bad_job_fails_with_code_and_sentence_and_the_next_one_runs(
    process: WorkerProcess, db: Database, submit: Submit, prompt: str, changes: dict[str, str], code: str
) -> None:
    bad, good = submit(prompts=[prompt], **changes), submit()
    assert drain_jobs(process) == 2
    failed = look(db, bad)
    assert (failed.state, failed.error_code) == ("failed", code)
    assert failed.error_message
    assert failed.error_message.endswith(".")
    assert look(db, good).state == "succeeded"
    assert all(line.waste for line in ledger_of(db, bad))


def test_missing_document_fails_the_job(
    process: WorkerProcess, db: Database, config: Settings, submit: Submit
) -> None:
    job = submit()
    blobs.connect(config).delete_folder("documents")
    drain_jobs(process)
    assert (look(db, job).state, look(db, job).error_code) == ("failed", "document_missing")


def test_answer_with_nul_is_stored(process: WorkerProcess, db: Database, submit: Submit) -> None:
    job = submit(prompts=["nul"])
    drain_jobs(process)
    kept = result(db, job)
    assert kept is not None
    assert kept.answers[0]["text"] == "a\ufffdb"


def test_several_slots_share_the_engine(config: Settings, db: Database, submit: Submit, tenant: str) -> None:
    with db.session() as session:
        workers.register(session, "wrk_test", "here", "cpu")
    process = WorkerProcess(config.model_copy(update={"slots": 3}), db, "wrk_test")
    made = [submit(TEXT + bytes([65 + n])) for n in range(5)]
    assert drain_jobs(process) == 5
    for n, job in enumerate(made):
        kept = result(db, job)
        assert kept is not None
        assert kept.answers[0]["text"] == right_answer(TEXT + bytes([65 + n]), "Who?")


def test_company_of_a_broken_job_is_tried_again(
    config: Settings, db: Database, submit: Submit, process: WorkerProcess
) -> None:
    crowded = WorkerProcess(config.model_copy(update={"slots": 2}), db, "wrk_test")
    bad, good = submit(prompts=["break-later"], max_attempts=2), submit(max_attempts=9)
    drain_jobs(crowded)
    assert (look(db, bad).state, look(db, bad).error_code) == ("failed", "internal_error")
    assert look(db, good).state == "succeeded"


def after_steps(monkeypatch: pytest.MonkeyPatch, steps: int, act: Callable[[], object]) -> None:
    """Lets something happen from outside after so many steps of the engine."""
    original, count = Engine.step, [0]

    def step(self: Engine) -> list[object]:
        count[0] += 1
        if count[0] == steps:
            act()
        return original(self)  # type: ignore[return-value]

    monkeypatch.setattr(Engine, "step", step)


def test_cancel_between_steps_keeps_what_was_answered(
    process: WorkerProcess, db: Database, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(prompts=["one", "two", "three"])

    def cancel() -> None:
        with db.session() as session:
            jobs.cancel(session, job.tenant_id, job.id)

    chunks = -(-len(TEXT) // 64)
    after_steps(monkeypatch, 1 + chunks + 2, cancel)  # counting, reading, one answer and a second
    drain_jobs(process)
    assert (look(db, job).state, look(db, job).error_code) == ("cancelled", "cancelled")
    kept = result(db, job)
    assert kept is not None
    assert (kept.complete, len(kept.answers)) == (False, 2)


def test_deadline_between_steps_expires_the_job(
    process: WorkerProcess, db: Database, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(deadline_at=datetime.now(UTC) + timedelta(hours=1))

    def pass_time() -> None:
        with db.session() as session:
            session.execute(text("UPDATE jobs SET deadline_at = now() - interval '1 second'"))

    after_steps(monkeypatch, 5, pass_time)
    drain_jobs(process)
    assert (look(db, job).state, look(db, job).error_code) == ("expired", "deadline_passed")
    assert ledger_of(db, job)


def test_stopping_worker_gives_the_job_back_and_the_next_resumes_it(
    process: WorkerProcess, db: Database, config: Settings, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(max_attempts=1)

    def stop() -> None:
        with db.session() as session:
            workers.request_stop(session, "wrk_test")

    with monkeypatch.context() as patch:
        after_steps(patch, 10, stop)
        drain_jobs(process)
    given = look(db, job)
    assert (given.state, given.attempts_lost) == ("queued", 0)
    assert given.snapshot_tokens
    with db.session() as session:
        workers.register(session, "wrk_next", "here", "cpu")
    drain_jobs(WorkerProcess(config, db, "wrk_next"))
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
        drain_jobs(process)
    key = look(db, job).snapshot_key
    assert key is not None
    with process.blobs.open(key) as file:
        assert len(json.load(file)["answers"]) >= 2
    with db.session() as session:
        workers.register(session, "wrk_next", "here", "cpu")
    drain_jobs(WorkerProcess(config, db, "wrk_next"))
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
        drain_jobs(process)
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
            drain_jobs(process)
    with db.session() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
    assert reap_once(db, blobs.connect(config), config).requeued == 1
    lost = ledger_of(db, job)
    assert {line.seq for line in lost if line.meter == "device_seconds.read"} == {0, 1}
    assert all(line.waste == (line.seq == 1) for line in lost)
    process.forget_engine()
    drain_jobs(process)
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
    drain_jobs(process)
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
        drain_jobs(process)
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
    drain_jobs(process)
    assert used[-1] is None
    assert len(used) == (2 if damage == "broken file" else 1)
    if damage == "broken file":
        assert not blobs.connect(config).exists(key)
    assert look(db, job).state == "succeeded"
    kept = result(db, job)
    assert kept is not None
    assert kept.answers[0]["text"] == right_answer(TEXT, "Who?")


def test_job_taken_by_another_is_dropped_without_a_word(
    process: WorkerProcess, db: Database, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit()

    def take_away() -> None:
        with db.session() as session:
            session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
            reaper.sweep(session, hint_seconds=60)
            [again] = leases.claim(session, ["small"], process.holder, limit=1, lease_seconds=30)
            assert again.attempt == 2

    after_steps(monkeypatch, 10, take_away)
    drain_jobs(process)
    taken = look(db, job)
    assert (taken.state, taken.attempt) == ("running", 2)
    assert result(db, job) is None


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
    assert drain_jobs(process) == 1
    done = look(db, job)
    assert (done.state, done.attempt, done.attempts_lost) == ("succeeded", 1, 0)
    second = submit()
    assert drain_jobs(process) == 1
    assert look(db, second).state == "succeeded"


def test_postgres_away_for_long_frees_the_slot_for_the_next_drain(
    process: WorkerProcess, db: Database, config: Settings, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.config = config.model_copy(update={"lease_seconds": 0.1, "progress_seconds": 1e-9})
    job = submit()
    with monkeypatch.context() as patch:
        look_fails(patch, "is_stopping", lambda number: number > 3)
        with pytest.raises(OperationalError):
            drain_jobs(process)
    assert look(db, job).state == "running"
    assert process.serve().engine.free_slots == 1
    process.config = config
    with db.session() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
    assert reap_once(db, blobs.connect(config), config).requeued == 1
    assert drain_jobs(process) == 1
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
    assert drain_jobs(process) == 1
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
    assert drain_jobs(process) == 2
    assert seen == [("queued", "queued")], "once, and with nothing under way"
