"""What the worker that holds a job's lease may do. Every write checks the fencing token, or raises LeaseLost.

All times are the database's, never a worker's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, exists, func, insert, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from store.billing import budgets, ledger, prices
from store.errors import LeaseLost
from store.jobs import backoff, repository
from store.tables.job_states import LEASED, State, sources
from store.tables.jobs import LEASE_TOKENS, Attempt, Job, Result


@dataclass(frozen=True)
class Holder:
    """The worker that claims jobs, and its device."""

    worker: str
    device_type: str
    device_memory_bytes: int


class Signal(NamedTuple):
    """What the holder must react to, as of its last write."""

    cancel: bool
    late: bool  # the deadline has passed


def _after(seconds: float) -> ColumnElement[datetime]:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _claimable(models: Sequence[str], worker: str) -> ColumnElement[bool]:
    in_time = or_(Job.deadline_at.is_(None), Job.deadline_at > func.now())
    free = and_(Job.state == State.QUEUED, Job.held_by_budget.is_(None), backoff.may_be_claimed(worker))
    return and_(free, Job.model.in_(models), in_time)


def any_waiting(session: Session, models: Sequence[str], worker: str) -> bool:
    """Whether this worker could claim a job."""
    return bool(session.scalar(select(exists().where(_claimable(models, worker)))))


def claim(
    session: Session, models: Sequence[str], holder: Holder, *, limit: int, lease_seconds: float
) -> list[Job]:
    """Claims up to `limit` waiting jobs of these models: highest priority first, then earliest deadline.

    One statement with SKIP LOCKED, so that two workers never claim the same job. Each job gets a new fencing
    token, larger than any before.
    """
    chosen = (
        select(Job.id)
        .where(_claimable(models, holder.worker))
        .order_by(Job.priority.desc(), Job.deadline_at, Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        # A CTE runs once; the planner may run a subquery again and lock more rows than it returns.
        .cte("chosen")
    )
    values = {
        Job.state: State.RUNNING.value,
        Job.attempt: Job.attempt + 1,
        Job.lease_owner: holder.worker,
        Job.lease_token: LEASE_TOKENS.next_value(),
        Job.lease_expires_at: _after(lease_seconds),
        Job.running_at: func.now(),
        Job.finalizing_at: None,
        Job.progress_phase: "loading",
        Job.progress_updated_at: func.now(),
        Job.progress_tokens_per_second: None,
    }
    statement = update(Job).where(Job.id == chosen.c.id).values(values).returning(Job)
    rows = list(session.scalars(statement, execution_options={"populate_existing": True}))
    terms = {
        "worker": holder.worker,
        "device_type": holder.device_type,
        "device_memory_bytes": holder.device_memory_bytes,
        "price_book_id": prices.in_effect(func.now()),
    }
    for row in rows:
        key = {"job_id": row.id, "attempt": row.attempt, "tenant_id": row.tenant_id, "token": row.lease_token}
        session.execute(insert(Attempt).values(**key, **terms))
    return sorted(rows, key=lambda row: (-row.priority, row.deadline_at is None, row.deadline_at, row.id))


def renew(session: Session, held: Iterable[tuple[str, int]], lease_seconds: float) -> set[str]:
    """Renews the leases of (job, token) pairs. Returns the jobs still held; the other leases are lost."""
    pairs = list(held)
    if not pairs:
        return set()
    mine = tuple_(Job.id, Job.lease_token).in_(pairs)
    statement = update(Job).where(mine, Job.state.in_(LEASED)).values(lease_expires_at=_after(lease_seconds))
    return set(session.scalars(statement.returning(Job.id)))


def _fenced(session: Session, job_id: str, token: int, values: dict[Any, Any]) -> Signal:
    late = func.coalesce(Job.deadline_at <= func.now(), literal(False))
    row = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.lease_token == token, Job.state.in_(LEASED))
        .values(values)
        .returning(Job.state, late)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"The lease {token} of {job_id} is no longer valid.")
    return Signal(cancel=row[0] == State.CANCELLING, late=row[1])


def pin(
    session: Session,
    job_id: str,
    token: int,
    *,
    model_revision: str,
    scorer: str | None,
    scorer_sha256: str | None,
    scorer_quality: Decimal | None = None,
    policy: str | None = None,
    policy_reason: str | None = None,
) -> Signal:
    """Records which model revision and which scorer version (`name@version`) this attempt runs with.

    `scorer_quality` is the share of the full cache's score that the scorer keeps in its evaluation. `policy`
    is the one that every attempt uses from now on; None keeps the job's.
    """
    pinned = {"model_revision": model_revision, "scorer": scorer, "scorer_sha256": scorer_sha256}
    chosen = {} if policy is None else {"policy": policy, "policy_reason": policy_reason}
    signal = _fenced(session, job_id, token, {**pinned, **chosen, "policy_pending": False, **backoff.CLEARED})
    values = {**pinned, "scorer_quality": scorer_quality}
    session.execute(update(Attempt).where(Attempt.token == token).values(**values))
    return signal


def progress(
    session: Session,
    job_id: str,
    token: int,
    *,
    phase: str,
    tokens_done: int,
    tokens_total: int | None,
    tokens_per_second: float | None,
    usage: dict[str, Any],
    answers: Sequence[dict[str, Any]] = (),
) -> Signal:
    """Reports progress, the usage of this attempt, and the answers so far."""
    values = {
        Job.progress_phase: phase,
        Job.progress_tokens_done: tokens_done,
        Job.progress_tokens_total: tokens_total,
        Job.progress_tokens_per_second: tokens_per_second,
        Job.progress_updated_at: func.now(),
        Job.positions: usage.get("positions"),
    }
    signal = _fenced(session, job_id, token, values)
    session.execute(update(Attempt).where(Attempt.token == token).values(usage=usage))
    if answers:
        _save_result(session, job_id, token, answers, usage=None, complete=False)
    return signal


def record_snapshot(
    session: Session,
    job_id: str,
    token: int,
    *,
    key: str,
    tokens: int,
    usage: dict[str, Any],
    total_usage: dict[str, Any],
) -> str | None:
    """Records a snapshot that is already in the blob store. Returns the key of the previous one.

    `usage` is that of this attempt, `total_usage` that of all attempts, as in the snapshot.
    """
    before = session.scalar(select(Job.snapshot_key).where(Job.id == job_id))
    values = {
        Job.snapshot_key: key,
        Job.snapshot_tokens: tokens,
        Job.snapshot_scorer_sha256: Job.scorer_sha256,
        Job.snapshot_model_revision: Job.model_revision,
        Job.snapshot_at: func.now(),
        Job.snapshot_usage: total_usage,
    }
    _fenced(session, job_id, token, values)
    session.execute(update(Attempt).where(Attempt.token == token).values(usage=usage, snapshot_usage=usage))
    return before


def finalize(session: Session, job_id: str, token: int) -> Signal:
    """All answers are ready to be written. A job being cancelled stays `cancelling`."""
    running = Job.state == State.RUNNING
    values = {
        Job.state: case((running, State.FINALIZING.value), else_=Job.state),
        Job.finalizing_at: func.now(),
        Job.progress_phase: "finalizing",
        Job.progress_updated_at: func.now(),
    }
    return _fenced(session, job_id, token, values)


def finish(
    session: Session,
    job_id: str,
    token: int,
    state: State,
    *,
    answers: Sequence[dict[str, Any]] = (),
    usage: dict[str, Any] | None = None,
    total_usage: dict[str, Any] | None = None,
    code: str | None = None,
    message: str | None = None,
) -> None:
    """Ends a job: result, ledger lines and event, in the caller's one transaction.

    `usage` is that of this attempt, `total_usage` that of all, which the client sees with the result.
    Raises LeaseLost if the token is not the job's, or if its state does not allow a move to `state`.
    """
    job = _lock(session, job_id, token, sources(state))
    if answers or state is State.SUCCEEDED:
        _save_result(session, job_id, token, answers, total_usage, complete=state is State.SUCCEEDED)
    failed = state is State.FAILED
    _close_attempt(session, job, token, state.value, usage, all_waste=failed, ended_job=True)
    if state is State.SUCCEEDED:
        job.progress_phase = "done"
    repository.close(session, job, state, code, message)


def release(
    session: Session,
    job_id: str,
    token: int,
    *,
    usage: dict[str, Any] | None,
    lost: bool,
    message: str | None = None,
    held_by: str | None = None,
    refused: str | None = None,
) -> None:
    """Gives a job back to the queue because its worker stops or, with `lost`, cannot go on.

    Only `lost` uses up an attempt. With `held_by` the job waits until that budget is no longer crossed. With
    `refused`, an error code, this worker cannot run it but another may: it backs off, and fails with the code
    at the refusal limit. A job being cancelled is cancelled; one without attempts left fails with
    `internal_error`.
    """
    job = _lock(session, job_id, token, tuple(LEASED))
    job.attempts_lost += int(lost)
    cancelled, spent = job.state == State.CANCELLING, job.attempts_lost >= job.max_attempts
    if refused is not None:
        spent = backoff.record_refusal(job, job.lease_owner) or spent
    outcome = "lost" if lost else "released"
    # If the job fails here, nothing will resume from its snapshot.
    wasted = spent and not cancelled
    _close_attempt(session, job, token, outcome, usage, all_waste=wasted, ended_job=cancelled or spent)
    if cancelled:
        repository.close(session, job, State.CANCELLED, "cancelled", "The job was cancelled.")
    elif spent:
        repository.close(session, job, State.FAILED, refused or "internal_error", message)
    else:
        repository.requeue(session, job, held_by, rests=refused is not None)


def _lock(session: Session, job_id: str, token: int, states: Sequence[str]) -> Job:
    query = select(Job).where(Job.id == job_id, Job.lease_token == token, Job.state.in_(states))
    # The row stays locked until the commit, so the lease cannot be taken away in between.
    fresh = {"populate_existing": True}
    job = session.scalars(query.with_for_update(), execution_options=fresh).one_or_none()
    if job is None:
        raise LeaseLost(f"The lease {token} of {job_id} is no longer valid.")
    return job


def _close_attempt(
    session: Session,
    job: Job,
    token: int,
    outcome: str,
    usage: dict[str, Any] | None,
    *,
    all_waste: bool = False,
    ended_job: bool = False,
) -> None:
    attempt = session.scalars(select(Attempt).where(Attempt.token == token)).one()
    attempt.outcome = outcome
    attempt.ended_at = func.now()
    attempt.ended_job = ended_job
    if usage is not None:
        attempt.usage = usage
    ledger.record(session, job, attempt, all_waste=all_waste)
    budgets.crossed(session, job.tenant_id, job.project, job.api_key_id)


def close_lost_attempt(session: Session, job: Job, *, ended_job: bool, failed: bool) -> None:
    """For the reaper: books what the lost worker of a locked job reported, as waste if the job failed."""
    if job.lease_token is not None:
        _close_attempt(session, job, job.lease_token, "lost", None, all_waste=failed, ended_job=ended_job)


def _save_result(
    session: Session,
    job_id: str,
    token: int,
    answers: Sequence[dict[str, Any]],
    usage: dict[str, Any] | None,
    *,
    complete: bool,
) -> None:
    owner = select(Job.id, Job.tenant_id, Job.attempt).where(Job.id == job_id, Job.lease_token == token)
    values = session.execute(owner).one()
    row = {"attempt": values.attempt, "complete": complete, "answers": list(answers), "usage": usage}
    statement = upsert(Result).values(job_id=job_id, tenant_id=values.tenant_id, **row)
    session.execute(
        statement.on_conflict_do_update(index_elements=["job_id"], set_={**row, "updated_at": func.now()})
    )


def drop_snapshot(session: Session, job_id: str, token: int) -> Signal:
    """Forgets an unusable snapshot, so that the next attempt starts from the beginning.

    The caller deletes the blob once this has committed.
    """
    return _fenced(session, job_id, token, {Job.snapshot_key: None, Job.snapshot_usage: None})
