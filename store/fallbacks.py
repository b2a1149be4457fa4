"""What serves a job when the version chosen for it cannot be loaded, and the word about that."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import audit, outbox, scorers
from store.activations import Alias, open_of, rolled_back, scopes_of
from store.models import Job
from store.scorer_tables import Activation, ScorerVersion
from store.scorers import USABLE

LOAD_FAILED = "scorer.load_failed"


def fallbacks(session: Session, job: Job, broken: ScorerVersion) -> list[ScorerVersion]:
    """Other versions of the scorer for a job, the best first: the stable one of its scope, then those that
    were stable there before. Without any, the runtime's bundled scorer is left."""
    stable, _ = open_of(session, broken.name, scopes_of(job))
    if stable is None:
        return []
    here = (
        Activation.name == broken.name,
        Activation.scope == stable.scope,
        Activation.alias == Alias.STABLE,
    )
    past = session.scalars(select(Activation).where(*here).order_by(Activation.id.desc())).all()
    query = (
        select(ScorerVersion)
        .join(Activation, Activation.version_id == ScorerVersion.id)
        .where(
            *here,
            Activation.id <= stable.id,
            ScorerVersion.id.not_in({broken.id, *rolled_back(past)}),
            ScorerVersion.state.in_(USABLE),
        )
        .order_by(Activation.id.desc())
    )
    return list({row.id: row for row in session.scalars(query)}.values())


def note_failed(
    session: Session, job: Job | None, worker_id: str, version: ScorerVersion, error: str
) -> None:
    """Tells the audit log why a worker could not load a version, and the tenant whose job met it that so it
    was: the error may name the machine's folders."""
    label = scorers.label(version)
    if job is not None:
        outbox.add_event(session, job.tenant_id, job.id, LOAD_FAILED, {"scorer": label, "worker": worker_id})
    audit.note(session, audit.SYSTEM, LOAD_FAILED, label, worker=worker_id, error=error)
