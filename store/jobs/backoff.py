"""Jobs that a worker gave back because it cannot do them now, while another worker may, or itself later."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, case, func, or_

from store.tables.jobs import Job

PAUSE_SECONDS = 5.0  # after the first time; four times as long after each further one
OWN_SECONDS = 60.0  # for so much longer the worker that gave it back leaves it to others

# What a worker that can do the job clears.
NONE: dict[str, Any] = {"refusals": 0, "refused_by": None, "claimable_at": None}


def _seconds(number: Any) -> ColumnElement[Any]:
    return func.make_interval(0, 0, 0, 0, 0, 0, number)


def rested(worker: str | None = None) -> ColumnElement[bool]:
    """Whether a job may be claimed again, by this worker or else by any."""
    longer = 0.0 if worker is None else case((Job.refused_by == worker, OWN_SECONDS), else_=0.0)
    return or_(Job.claimable_at.is_(None), Job.claimable_at <= func.now() - _seconds(longer))


def note(job: Job, worker: str | None) -> bool:
    """Notes that a worker gives back a job, locked by the caller → whether that was once too often."""
    job.refusals += 1
    job.refused_by = worker
    pause: Any = func.now() + _seconds(PAUSE_SECONDS * 4 ** (job.refusals - 1))
    job.claimable_at = pause
    return job.refusals >= job.max_attempts
