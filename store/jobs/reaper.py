"""Advances jobs that no worker will: after lost workers, passed deadlines and lost hints."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import and_, delete, exists, func, or_, select, text, update
from sqlalchemy.orm import Session

from store import outbox
from store.billing import holds
from store.jobs import backoff, leases, repository
from store.scorers import registry
from store.tables.idempotency import IdempotencyKey
from store.tables.job_states import LEASED, State
from store.tables.jobs import Job
from store.tables.outbox import OutboxRow
from store.tables.workers import Worker
from store.webhooks import deliveries


class Reaped(NamedTuple):
    """What one sweep did: numbers of jobs by their new state, and of hints sent again."""

    requeued: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    released: int = 0  # no longer held by a budget
    hinted: int = 0


def sweep(session: Session, *, hint_seconds: float, limit: int = 200) -> Reaped:
    """One pass, in the caller's transaction. Several reapers may run: each skips what another has locked."""
    moved = [_end_lease(session, job) for job in _expired_leases(session, limit)]
    late = _late_in_queue(session, limit)
    for job in late:
        repository.close(
            session,
            job,
            State.EXPIRED,
            "deadline_passed",
            "The deadline passed before a worker claimed the job.",
        )
    session.flush()
    return Reaped(
        requeued=moved.count(State.QUEUED),
        failed=moved.count(State.FAILED),
        expired=moved.count(State.EXPIRED) + len(late),
        cancelled=moved.count(State.CANCELLED),
        released=holds.sweep(session, limit),
        hinted=_hint_again(session, hint_seconds) + registry.hint_again(session, hint_seconds),
    )


def _expired_leases(session: Session, limit: int) -> list[Job]:
    query = select(Job).where(Job.state.in_(LEASED), Job.lease_expires_at < func.now()).limit(limit)
    return list(session.scalars(query.with_for_update(skip_locked=True)))


def _end_lease(session: Session, job: Job) -> State:
    job.attempts_lost += 1
    late = bool(session.scalar(select(Job.deadline_at <= func.now()).where(Job.id == job.id)))
    spent = job.attempts_lost >= job.max_attempts
    cancelled = job.state == State.CANCELLING
    failed = spent and not (late or cancelled)
    leases.close_lost_attempt(session, job, ended_job=late or spent or cancelled, failed=failed)
    if cancelled:
        repository.close(
            session,
            job,
            State.CANCELLED,
            "cancelled",
            "The job was cancelled; its worker had stopped responding.",
        )
    elif late:
        message = "The deadline passed and the worker had stopped responding. Earlier answers are kept."
        repository.close(session, job, State.EXPIRED, "deadline_passed", message)
    elif failed:
        message = f"{job.attempts_lost} workers were lost during the job, so it is not retried."
        repository.close(session, job, State.FAILED, "worker_lost", message)
    else:
        repository.requeue(session, job)
    return State(job.state)


def _late_in_queue(session: Session, limit: int) -> list[Job]:
    query = select(Job).where(Job.state == State.QUEUED, Job.deadline_at <= func.now()).limit(limit)
    return list(session.scalars(query.with_for_update(skip_locked=True)))


def _hint_again(session: Session, hint_seconds: float) -> int:
    """One hint for each model with jobs that wait without a recent hint; one hint serves all of them."""
    limit = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, hint_seconds)
    pending = exists().where(OutboxRow.kind == "hint", OutboxRow.job_id == Job.id)
    due = or_(Job.queued_at < limit, Job.claimable_at <= func.now())
    unheard = or_(Job.hinted_at < limit, and_(Job.hinted_at.is_(None), due, ~pending))
    free = and_(Job.state == State.QUEUED, Job.held_by_budget.is_(None), backoff.may_be_claimed())
    waiting = select(Job.id).where(free, unheard).with_for_update(skip_locked=True).cte()
    statement = update(Job).where(Job.id == waiting.c.id).values(hinted_at=func.now()).returning(Job.model)
    models = set(session.scalars(statement, execution_options={"synchronize_session": False}))
    for model in sorted(models):
        outbox.add_hint(session, model)
    return len(models)


def forget(session: Session) -> None:
    """Deletes expired idempotency keys, workers silent for a day, and old messages.

    A notifier takes events out of the outbox within seconds. If none has run for a week, they are dropped:
    nobody needs a message that late, and the jobs themselves show how they ended.
    """
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.expires_at < func.now()))
    silent = Worker.heartbeat_at < func.now() - text("interval '1 day'")
    session.execute(delete(Worker).where(silent))
    old = OutboxRow.created_at < func.now() - text("interval '7 days'")
    session.execute(delete(OutboxRow).where(OutboxRow.kind == "event", old))
    deliveries.forget(session)
