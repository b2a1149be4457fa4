"""Snapshots of a job: their keys, when one is due, and what happens to a damaged one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from store import log
from store.errors import LeaseLost
from store.jobs import leases
from store.tables.jobs import Job
from worker.engine.interface import RunLike
from worker.engine.process import WorkerProcess

_log = log.get("worker.jobs.snapshots")


def folder_of(job_id: str) -> str:
    """The folder of a job's snapshots in the blob store."""
    return f"snapshots/{job_id}"


def key_of(job: Job, tokens: int, number: int) -> str:
    """The key of a snapshot, which is never written twice.

    It is unique by job, attempt, fencing token, position in the document and number.
    """
    return f"{folder_of(job.id)}/{job.attempt}-{job.lease_token}-{tokens}-{number}.safetensors"


class Snapshots:
    """The snapshots of one claimed job.

    Attributes:
        tokens: read at the time of the last snapshot.
        base: usage of earlier attempts, as recorded in the snapshot that was resumed.
    """

    def __init__(
        self, job: Job, process: WorkerProcess, write: Callable[[Callable[[Session], Any]], Any]
    ) -> None:
        assert job.lease_token is not None
        self.tokens = 0
        self.base: dict[str, Any] = {}
        self._job, self._token = job, job.lease_token
        self._process, self._write = process, write
        self._number = 0
        self._resumed = False
        self._log = _log.bind(job=job.id, attempt=job.attempt, token=self._token)

    def to_resume(self, scorer_sha256: str | None, revision: str) -> str | None:
        """The key of the snapshot to resume, if it exists and was made with the same scorer and model."""
        job = self._job
        same = (job.snapshot_scorer_sha256, job.snapshot_model_revision) == (scorer_sha256, revision)
        if job.snapshot_key is None or not same or not self._process.blobs.exists(job.snapshot_key):
            return None
        self.base = job.snapshot_usage or {}
        self._resumed = True
        self.tokens = job.snapshot_tokens or 0
        return job.snapshot_key

    def due(self, run: RunLike) -> bool:
        """Whether enough has been read since the last snapshot."""
        if run.phase == "reading" and run.tokens_read < self.tokens:
            self.tokens = 0  # it reads the document again
        every = self._process.config.snapshot_chunks * self._process.config.chunk_tokens
        fresh = run.tokens_read - self.tokens
        # One more when reading is complete, so that answering never has to read again.
        return (run.phase == "reading" and fresh >= every) or (
            run.phase == "answering" and run.tokens_read >= every and fresh > 0
        )

    def write(self, run: RunLike, own_usage: Callable[[], dict[str, Any]]) -> bool:
        """Writes a snapshot; True if it was stored. `own_usage` returns this attempt's usage.

        Raises LeaseLost.
        """
        blobs = self._process.blobs
        self._number += 1
        key = key_of(self._job, run.tokens_read, self._number)
        self.tokens = run.tokens_read
        held = run.usage.to_dict()  # as the snapshot records it, without the time to write it
        try:
            with blobs.create_path(key) as path:
                run.snapshot(path)
        except OSError as error:
            # A full disk costs the snapshot, not the job.
            self._log.warning("snapshot_failed", error=str(error))
            return False
        try:
            before = self._write(
                lambda session: leases.record_snapshot(
                    session,
                    self._job.id,
                    self._token,
                    key=key,
                    tokens=run.tokens_read,
                    usage=own_usage(),
                    total_usage=held,
                )
            )
        except LeaseLost:
            blobs.delete(key)
            raise
        if before is not None and before != key:
            blobs.delete(before)
        return True

    def may_be_damaged(self, run: RunLike) -> bool:
        """Whether the run failed without reading beyond its snapshot, so the snapshot may be the cause."""
        return self._resumed and run.tokens_read == 0

    def discard(self) -> None:
        """Deletes the snapshot, so that the next attempt starts from the beginning. Raises LeaseLost."""
        key = self._job.snapshot_key
        self._log.warning("snapshot_discarded", key=key)
        self._write(lambda session: leases.drop_snapshot(session, self._job.id, self._token))
        if key is not None:
            self._process.blobs.delete(key)
