"""How a job ends on a worker: its result, or the error, cancellation or deadline that ended it."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from store import blobs, jobs
from store.database import Database
from store.jobs import leases, reaper
from store.settings import Settings
from tests.support.standin import REVISION, right_answer
from tests.support.worker_jobs import Submit, after_steps, ledger_of, look, result
from tests.unit.worker.conftest import TEXT
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs


def test_a_job_is_answered_with_result_ledger_and_pins(
    process: WorkerProcess, db: Database, submit: Submit
) -> None:
    job = submit(prompts=["Who?", "Why?"], policy="namm")
    assert run_jobs(process) == 1
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
    assert run_jobs(process) == 2
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
    run_jobs(process)
    assert (look(db, job).state, look(db, job).error_code) == ("failed", "document_missing")


def test_answer_with_nul_is_stored(process: WorkerProcess, db: Database, submit: Submit) -> None:
    job = submit(prompts=["nul"])
    run_jobs(process)
    kept = result(db, job)
    assert kept is not None
    assert kept.answers[0]["text"] == "a\ufffdb"


def test_cancel_between_steps_keeps_what_was_answered(
    process: WorkerProcess, db: Database, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(prompts=["one", "two", "three"])

    def cancel() -> None:
        with db.session() as session:
            jobs.cancel(session, job.tenant_id, job.id)

    chunks = -(-len(TEXT) // 64)
    after_steps(monkeypatch, 1 + chunks + 2, cancel)  # counting, reading, one answer and a second
    run_jobs(process)
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
    run_jobs(process)
    assert (look(db, job).state, look(db, job).error_code) == ("expired", "deadline_passed")
    assert ledger_of(db, job)


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
    run_jobs(process)
    taken = look(db, job)
    assert (taken.state, taken.attempt) == ("running", 2)
    assert result(db, job) is None


def test_a_guided_reading_tells_which_answers_are_at_risk(
    process: WorkerProcess, db: Database, submit: Submit
) -> None:
    job = submit(prompts=["What was evicted?", "Has it piled up?"])
    run_jobs(process)
    kept = result(db, job)
    assert kept is not None
    told = [(one["guided"], one["evicted_attention"], one["at_risk"]) for one in kept.answers]
    assert told == [(True, 0.41, True), (True, 0.02, False)]
    assert kept.usage is not None
    assert [warning["code"] for warning in kept.usage["warnings"]] == ["slots_piled_up"]
    lines = {line.meter: line.quantity for line in ledger_of(db, job)}
    assert (lines["answers"], lines["answers.at_risk"], lines["rereads"]) == (2, 1, 0)


def test_an_open_reading_knows_of_no_risk(process: WorkerProcess, db: Database, submit: Submit) -> None:
    job = submit(prompts=["What was evicted?"], reading="open")
    run_jobs(process)
    kept = result(db, job)
    assert kept is not None
    assert (kept.answers[0]["guided"], kept.answers[0]["evicted_attention"]) == (False, None)


@pytest.mark.parametrize(
    ("pending", "expected"),
    [(True, ("window", "The stand-in knows no better one.")), (False, ("namm", "Mine."))],
)
def test_a_worker_chooses_the_policy_that_was_not_known_yet(
    process: WorkerProcess, db: Database, submit: Submit, pending: bool, expected: tuple[str, str]
) -> None:
    job = submit(policy="namm", policy_reason="Mine.", policy_pending=pending)
    run_jobs(process)
    done = look(db, job)
    assert (done.state, done.policy, done.policy_reason, done.policy_pending) == (
        "succeeded",
        *expected,
        False,
    )
    assert done.scorer == (None if pending else "namm@1"), "what ran is what is recorded"
