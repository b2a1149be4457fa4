"""Names of snapshots: by job, attempt, fencing token and place, so that no two writers ever share one."""

from __future__ import annotations

from store.models import Job


def folder_of(job_id: str) -> str:
    """Where the snapshots of a job lie in the blob store."""
    return f"snapshots/{job_id}"


def key_of(job: Job, tokens: int) -> str:
    """The key of the snapshot that the holder of `job` takes after so many tokens."""
    return f"{folder_of(job.id)}/{job.attempt}-{job.lease_token}-{tokens}.safetensors"
