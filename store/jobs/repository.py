"""Jobs as their owners see them: create, read, list, cancel.

What workers do is in `store.jobs.leases`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from store import outbox
from store.ids import new_id
from store.tables.job_states import TERMINAL, State
from store.tables.jobs import Attempt, Job, Result
from store.tenancy import get_scoped, scoped


@dataclass(frozen=True)
class NewJob:
    """A validated request for a job."""

    document_id: str
    task: str  # ask | summarize | prompt
    prompts: list[str]
    model: str
    policy: str
    policy_reason: str | None = None  # a sentence
    policy_pending: bool = False  # the worker that claims it replaces it by its model's default
    reading: str = "guided"  # guided | open
    on_risk: str = "report"  # report | reread
    scorer_requested: str | None = None  # name or name@version; None = the scorer the policy is named after
    cache_budget: int | None = None  # slots per KV head; None = the engine's default
    max_output_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    priority: int = 0  # higher first
    deadline_at: datetime | None = None
    tags: dict[str, Any] = field(default_factory=dict)  # the `metadata` of the API
    max_attempts: int = 3
    api_key_id: str | None = None
    project: str = "default"
    held_by_budget: str | None = None  # the crossed budget that holds it in the queue
    bulk_id: str | None = None  # the bulk job it belongs to
    bulk_seq: int | None = None  # which of its documents
    template: str | None = None  # of a summary: name@version
    summary_prompts: int = 0  # how many of the prompts, from the first, ask for key points


def create(session: Session, tenant_id: str, job: NewJob) -> Job:
    """Queues a job and, unless a budget holds it, asks for a worker to be woken."""
    values = {**asdict(job), "id": new_id("job"), "tenant_id": tenant_id}
    row = session.scalars(insert(Job).values(values).returning(Job)).one()
    if row.held_by_budget is None:
        outbox.add_hint(session, row.model, row.id)
    return row


def get(session: Session, tenant_id: str, job_id: str) -> Job:
    """Raises NotFound."""
    return get_scoped(session, Job, tenant_id, id=job_id)


def list_jobs(
    session: Session,
    tenant_id: str,
    *,
    states: Sequence[str] = (),
    model: str | None = None,
    document_id: str | None = None,
    bulk_id: str | None = None,
    created_from: datetime | None = None,
    created_before: datetime | None = None,
    before: str | None = None,
    limit: int = 20,
) -> list[Job]:
    """The tenant's jobs, newest first; `before` is the id of the previous page's last job."""
    query = scoped(Job, tenant_id).order_by(Job.id.desc()).limit(limit)
    if states:
        query = query.where(Job.state.in_(states))
    if model is not None:
        query = query.where(Job.model == model)
    if document_id is not None:
        query = query.where(Job.document_id == document_id)
    if bulk_id is not None:
        query = query.where(Job.bulk_id == bulk_id)
    if created_from is not None:
        query = query.where(Job.created_at >= created_from)
    if created_before is not None:
        query = query.where(Job.created_at < created_before)
    if before is not None:
        query = query.where(Job.id < before)
    return list(session.scalars(query))


def result(session: Session, tenant_id: str, job_id: str) -> Result | None:
    """The answers of the job so far, if there are any. Raises NotFound."""
    get(session, tenant_id, job_id)
    return session.scalars(scoped(Result, tenant_id).where(Result.job_id == job_id)).one_or_none()


def attempts(session: Session, tenant_id: str, job_id: str) -> list[Attempt]:
    """The job's attempts in order. Raises NotFound."""
    get(session, tenant_id, job_id)
    query = scoped(Attempt, tenant_id).where(Attempt.job_id == job_id).order_by(Attempt.attempt)
    return list(session.scalars(query))


def cancel(session: Session, tenant_id: str, job_id: str) -> Job:
    """Cancels a job: at once if it is queued, otherwise at its worker's next step. Raises NotFound.

    Idempotent, and without effect on a job that has ended. Answers given so far are kept.
    """
    job = session.scalars(scoped(Job, tenant_id).where(Job.id == job_id).with_for_update()).one_or_none()
    if job is None:
        return get(session, tenant_id, job_id)  # raises NotFound
    if job.state == State.QUEUED:
        job.cancel_requested_at = func.now()
        close(session, job, State.CANCELLED, "cancelled", "The job was cancelled before a worker claimed it.")
    elif job.state in (State.RUNNING, State.FINALIZING):
        job.state = State.CANCELLING
        job.cancel_requested_at = func.now()
    session.flush()
    session.refresh(job)
    return job


def close(session: Session, job: Job, state: State, code: str | None, message: str | None) -> None:
    """Puts a job, locked by the caller, into a final state, ends its lease and records the event."""
    ended: Any = func.now()
    setattr(job, f"{state.value}_at", ended)
    job.state = state
    job.error_code, job.error_message = code, message
    job.held_by_budget = None
    job.lease_owner = job.lease_token = job.lease_expires_at = None
    payload = {"state": state.value, "attempt": job.attempt, "error": code}
    outbox.add_event(session, job.tenant_id, job.id, f"job.{state.value}", payload)


def requeue(session: Session, job: Job, held_by: str | None = None, *, rests: bool = False) -> None:
    """Puts a job, locked by the caller, back into the queue and asks for a worker.

    Not if a budget holds it, or if it is backing off: the reaper then asks later.
    """
    job.state = State.QUEUED
    job.queued_at = func.now()
    job.hinted_at = None
    job.held_by_budget = held_by
    job.lease_owner = job.lease_token = job.lease_expires_at = None
    if held_by is None and not rests:
        outbox.add_hint(session, job.model, job.id)


def note_hints(session: Session, job_ids: Sequence[str]) -> None:
    """Records that the hints for these jobs were handed to the broker."""
    session.execute(update(Job).where(Job.id.in_(job_ids)).values(hinted_at=func.now()))


def ended_with_snapshot(session: Session, limit: int = 100) -> list[str]:
    """Ended jobs that still have a snapshot, for the reaper to remove."""
    query = select(Job.id).where(Job.state.in_(TERMINAL), Job.snapshot_key.is_not(None))
    return list(session.scalars(query.limit(limit)))


def forget_snapshots(session: Session, job_ids: Sequence[str]) -> None:
    """Clears the keys of snapshots that were removed."""
    session.execute(update(Job).where(Job.id.in_(job_ids)).values(snapshot_key=None))
