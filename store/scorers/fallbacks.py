"""What serves a job when its version cannot be loaded, and how that is reported."""

from __future__ import annotations

from sqlalchemy.orm import Session

from store import audit, outbox
from store.scorers import registry
from store.scorers.activations import open_of, rolled_back, scopes_of, stables, usable_of
from store.tables.jobs import Job
from store.tables.scorers import ScorerVersion

LOAD_FAILED = "scorer.load_failed"


def fallbacks(session: Session, job: Job, broken: ScorerVersion) -> list[ScorerVersion]:
    """Other versions of the scorer for a job, the best first: the stable one of its scope, then earlier ones.

    If there are none, the runtime's bundled scorer remains.
    """
    stable, _ = open_of(session, broken.name, scopes_of(job))
    if stable is None:
        return []
    past = stables(session, broken.name, stable.scope)
    left = {broken.id, *rolled_back(past)}
    before = [row for row in past if row.number <= stable.number]
    return [version for _, version in usable_of(session, before, left)]


def note_failed(
    session: Session, job: Job | None, worker_id: str, version: ScorerVersion, error: str
) -> None:
    """Records in the audit log why a worker could not load a version, and sends the job's tenant an event.

    The event leaves out the error, which may name folders of the machine.
    """
    label = registry.label(version)
    if job is not None:
        outbox.add_event(session, job.tenant_id, job.id, LOAD_FAILED, {"scorer": label, "worker": worker_id})
    audit.note(session, audit.SYSTEM, LOAD_FAILED, label, worker=worker_id, error=error)
