"""Names of snapshots: by job, attempt, fencing token, place and number; none is ever written twice."""

from __future__ import annotations

from store.models import Job


def folder_of(job_id: str) -> str:
    """Where the snapshots of a job lie in the blob store."""
    return f"snapshots/{job_id}"


def key_of(job: Job, tokens: int, number: int) -> str:
    """The key of the holder's snapshot of that number, taken after so many tokens of the document."""
    return f"{folder_of(job.id)}/{job.attempt}-{job.lease_token}-{tokens}-{number}.safetensors"
