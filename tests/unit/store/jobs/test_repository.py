"""Creating, claiming, ending and cancelling jobs; what the fencing token protects."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from store import jobs, tenants
from store.database import Database
from store.errors import LeaseLost, NotFound
from store.jobs import leases
from store.tables.job_states import State
from store.tables.jobs import Job
from tests.support.claimed_jobs import USAGE, Submit, hints, look, sweep, take, token_of
from tests.unit.store.conftest import HOLDER


def test_job_and_hint_are_written_together_or_not_at_all(db: Database, tenant: str, submit: Submit) -> None:
    job = submit()
    assert [(hint.queue, hint.job_id) for hint in hints(db)] == [("jobs.small", job.id)]
    with db.session() as session:
        jobs.create(session, tenant, jobs.NewJob(job.document_id, "ask", ["?"], "small", "window"))
        session.rollback()
    assert len(hints(db)) == 1
    with db.session() as session:
        assert len(jobs.list_jobs(session, tenant)) == 1


def test_claim_takes_the_most_urgent_then_the_earliest_deadline_then_the_oldest(
    db: Database, submit: Submit
) -> None:
    soon, later = (datetime.now(UTC) + timedelta(hours=hours) for hours in (1, 2))
    plain = submit()
    due_later = submit(deadline_at=later)
    due_soon = submit(deadline_at=soon)
    urgent = submit(priority=5)
    other_model = submit(model="large", priority=9)
    order = [job.id for job in take(db, limit=3)] + [job.id for job in take(db, limit=3)]
    assert order == [urgent.id, due_soon.id, due_later.id, plain.id]
    assert look(db, other_model).state == State.QUEUED


def test_two_sessions_claim_different_jobs(db: Database, submit: Submit) -> None:
    submitted = {submit().id, submit().id}
    with db.session() as one, db.session() as two:
        first = leases.claim(one, ["small"], HOLDER, limit=1, lease_seconds=30)
        second = leases.claim(two, ["small"], HOLDER, limit=1, lease_seconds=30)
        third = leases.claim(two, ["small"], HOLDER, limit=1, lease_seconds=30)
    assert {first[0].id, second[0].id} == submitted
    assert third == []
    assert token_of(first[0]) < token_of(second[0])


def test_a_whole_life(db: Database, tenant: str, submit: Submit) -> None:
    submit()
    [job] = take(db)
    token = token_of(job)
    answers = [{"question": "Who?", "text": "Ann", "tokens": 1, "finish_reason": "stop"}]
    with db.session() as session:
        assert leases.renew(session, [(job.id, token)], 30) == {job.id}
        leases.pin(session, job.id, token, model_revision="r1", scorer="namm@1", scorer_sha256="ab")
        signal = leases.progress(
            session,
            job.id,
            token,
            phase="reading",
            tokens_done=50,
            tokens_total=100,
            tokens_per_second=10.0,
            usage=USAGE,
        )
        assert signal == leases.Signal(cancel=False, late=False)
        leases.record_snapshot(
            session, job.id, token, key="snap/1", tokens=50, usage=USAGE, total_usage=USAGE
        )
        leases.finalize(session, job.id, token)
        leases.finish(
            session, job.id, token, State.SUCCEEDED, answers=answers, usage=USAGE, total_usage=USAGE
        )
    done = look(db, job)
    assert (done.state, done.attempt, done.scorer, done.snapshot_key) == ("succeeded", 1, "namm@1", "snap/1")
    assert done.snapshot_scorer_sha256 == "ab"
    stamps = [done.queued_at, done.running_at, done.finalizing_at, done.succeeded_at]
    assert None not in stamps
    assert done.lease_token is None
    with db.session() as session:
        result = jobs.result(session, tenant, job.id)
        assert result is not None
        assert (result.complete, result.answers) == (True, answers)
        [attempt] = jobs.attempts(session, tenant, job.id)
        assert (attempt.outcome, attempt.token) == ("succeeded", token)
        events = list(session.scalars(text("SELECT payload->>'type' FROM outbox WHERE kind = 'event'")))
        assert events == ["job.succeeded"]


def write_progress(session: Any, job: Job, token: int) -> object:
    return leases.progress(
        session,
        job.id,
        token,
        phase="reading",
        tokens_done=1,
        tokens_total=2,
        tokens_per_second=None,
        usage=USAGE,
        answers=[{"text": "zombie"}],
    )


WRITES: dict[str, Callable[[Any, Job, int], object]] = {
    "pin": lambda s, j, t: leases.pin(s, j.id, t, model_revision="r", scorer=None, scorer_sha256=None),
    "progress": write_progress,
    "snapshot": lambda s, j, t: leases.record_snapshot(
        s, j.id, t, key="k", tokens=1, usage=USAGE, total_usage=USAGE
    ),
    "finalize": lambda s, j, t: leases.finalize(s, j.id, t),
    "succeed": lambda s, j, t: leases.finish(s, j.id, t, State.SUCCEEDED, answers=[{"text": "zombie"}]),
    "fail": lambda s, j, t: leases.finish(s, j.id, t, State.FAILED, code="x", message="y"),
    "release": lambda s, j, t: leases.release(s, j.id, t, usage=USAGE, lost=True),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("where", ["requeued", "taken by another", "finished by another"])
def test_every_write_is_refused_after_the_lease_is_lost(
    db: Database, tenant: str, submit: Submit, write: str, where: str
) -> None:
    submit()
    [job] = take(db, lease_seconds=0)
    old = token_of(job)
    assert sweep(db).requeued == 1
    if where != "requeued":
        [again] = take(db)
        assert token_of(again) > old
        assert again.attempt == 2
    if where == "finished by another":
        with db.session() as session:
            leases.finalize(session, job.id, token_of(again))
            leases.finish(session, job.id, token_of(again), State.SUCCEEDED, answers=[{"text": "right"}])
    before = look(db, job)
    with pytest.raises(LeaseLost), db.session() as session:
        WRITES[write](session, job, old)
    with db.session() as session:
        assert leases.renew(session, [(job.id, old)], 30) == set()
        result = jobs.result(session, tenant, job.id)
    assert (result.answers if result else None) == (
        [{"text": "right"}] if where == "finished by another" else None
    )
    after = look(db, job)
    assert {c.name: getattr(before, c.key, None) for c in Job.__table__.columns} == {
        c.name: getattr(after, c.key, None) for c in Job.__table__.columns
    }


def test_cancel_of_a_waiting_job_is_at_once_and_idempotent(db: Database, tenant: str, submit: Submit) -> None:
    job = submit()
    with db.session() as session:
        assert jobs.cancel(session, tenant, job.id).state == State.CANCELLED
        first = jobs.cancel(session, tenant, job.id)
    assert first.error_code == "cancelled"
    assert take(db) == []


def test_cancel_of_a_running_job_reaches_its_holder(db: Database, tenant: str, submit: Submit) -> None:
    submit()
    [job] = take(db)
    with db.session() as session:
        assert jobs.cancel(session, tenant, job.id).state == State.CANCELLING
        assert jobs.cancel(session, tenant, job.id).state == State.CANCELLING
        signal = leases.finalize(session, job.id, token_of(job))
        assert signal.cancel
    with db.session() as session:
        partial = [{"text": "half"}]
        leases.finish(session, job.id, token_of(job), State.CANCELLED, answers=partial, code="cancelled")
        result = jobs.result(session, tenant, job.id)
        assert result is not None
        assert (result.complete, result.answers) == (False, partial)


def test_another_tenant_sees_nothing(db: Database, submit: Submit) -> None:
    job = submit()
    with db.session() as session:
        stranger = tenants.ensure(session, "ten_other", "other")
        assert jobs.list_jobs(session, stranger) == []
        for ask in (jobs.get, jobs.cancel, jobs.result, jobs.attempts):
            with pytest.raises(NotFound):
                ask(session, stranger, job.id)


def test_pages_and_filters(db: Database, tenant: str, submit: Submit) -> None:
    made = sorted(submit(model=model).id for model in ("small", "small", "large"))
    with db.session() as session:
        page = jobs.list_jobs(session, tenant, limit=2)
        rest = jobs.list_jobs(session, tenant, before=page[-1].id)
        assert [job.id for job in [*page, *rest]] == made[::-1]
        assert len(jobs.list_jobs(session, tenant, model="large", states=["queued", "running"])) == 1
        assert jobs.list_jobs(session, tenant, states=["failed"]) == []


def test_released_job_waits_again_and_costs_no_attempt(db: Database, submit: Submit) -> None:
    submit(max_attempts=1)
    [job] = take(db)
    with db.session() as session:
        leases.release(session, job.id, token_of(job), usage=USAGE, lost=False)
    assert (look(db, job).state, look(db, job).attempts_lost) == ("queued", 0)
    [again] = take(db)
    with db.session() as session:
        leases.release(session, again.id, token_of(again), usage=USAGE, lost=True, message="Broke.")
    assert (look(db, job).state, look(db, job).error_code) == ("failed", "internal_error")
