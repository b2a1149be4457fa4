"""Backoff for jobs that a worker could not run now, though another worker may, or the same one later."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, case, func, or_

from store.tables.jobs import Job

PAUSE_SECONDS = 5.0  # after the first refusal; four times as long after each further one
OWN_SECONDS = 60.0  # the worker that refused it waits this much longer, to leave it to others

# The columns of a job without refusals.
CLEARED: dict[str, Any] = {"refusals": 0, "refused_by": None, "claimable_at": None}


def _seconds(number: Any) -> ColumnElement[Any]:
    return func.make_interval(0, 0, 0, 0, 0, 0, number)


def may_be_claimed(worker: str | None = None) -> ColumnElement[bool]:
    """Whether a job may be claimed again: by this worker, or by any if none is given."""
    longer = 0.0 if worker is None else case((Job.refused_by == worker, OWN_SECONDS), else_=0.0)
    return or_(Job.claimable_at.is_(None), Job.claimable_at <= func.now() - _seconds(longer))


def record_refusal(job: Job, worker: str | None) -> bool:
    """Records a refusal of a job, locked by the caller. Returns True at the refusal limit."""
    job.refusals += 1
    job.refused_by = worker
    pause: Any = func.now() + _seconds(PAUSE_SECONDS * 4 ** (job.refusals - 1))
    job.claimable_at = pause
    return job.refusals >= job.max_attempts
