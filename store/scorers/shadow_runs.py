"""What came of reading a document once more with a canary, beside the version that answered."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.tables.jobs import Job
from store.tables.scorers import ShadowRun


class Outcome(StrEnum):
    """How a shadow run ended. Agreement is counted over those that were made, so not over the last kind."""

    ANSWERED = "answered"
    BROKE = "broke"  # in the engine, and nothing else can be to blame: it agrees with nothing
    NOT_MADE = "not_made"  # the version or the document was not at hand, or something beside it broke


def record(
    session: Session,
    job: Job,
    version_id: str,
    outcome: Outcome,
    *,
    stable: str,
    answers: int,
    agreed: int,
    device_seconds: float,
    error: str | None = None,
) -> None:
    """Writes it once a job and version; a second word changes nothing. Books nothing in the ledger."""
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
