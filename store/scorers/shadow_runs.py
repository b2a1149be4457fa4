"""Shadow runs: a canary reads the same document as the version that answers, only to compare the answers."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.tables.jobs import Job
from store.tables.scorers import ShadowRun


class ShadowOutcome(StrEnum):
    """How a shadow run ended. Agreement is counted over all but those that were not made."""

    ANSWERED = "answered"
    BROKE = "broke"  # failed in the engine through the version's fault: it agrees with nothing
    NOT_MADE = "not_made"  # the version or the document was unavailable, or something else failed


def record(
    session: Session,
    job: Job,
    version_id: str,
    outcome: ShadowOutcome,
    *,
    stable: str,
    answers: int,
    agreed: int,
    device_seconds: float,
    error: str | None = None,
) -> None:
    """Records a shadow run, once per job and version; later calls change nothing. Nothing is billed."""
    values = {
        "job_id": job.id,
        "version_id": version_id,
        "tenant_id": job.tenant_id,
        "stable": stable,
        "outcome": outcome.value,
        "answers": answers,
        "agreed": agreed,
        "device_seconds": device_seconds,
        "error": error,
    }
    session.execute(insert(ShadowRun).values(**values).on_conflict_do_nothing())
