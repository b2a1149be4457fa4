"""Snapshots of a job: their names, when one is due, and what is done with one that cannot be used."""

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
    """Where the snapshots of a job lie in the blob store."""
    return f"snapshots/{job_id}"


def key_of(job: Job, tokens: int, number: int) -> str:
    """The key of the holder's snapshot of that number, taken after so many tokens of the document: by job,
    attempt, fencing token, place and number, so that none is ever written twice."""
    return f"{folder_of(job.id)}/{job.attempt}-{job.lease_token}-{tokens}-{number}.safetensors"


class Snapshots:
    """Those of one claimed job.

    Attributes:
        tokens: read at the last one.
        base: usage of the attempts before, as the snapshot that was gone on from holds it.
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
        """The key of the one to go on from: made with the same scorer and model, and still there."""
        job = self._job
        same = (job.snapshot_scorer_sha256, job.snapshot_model_revision) == (scorer_sha256, revision)
        if job.snapshot_key is None or not same or not self._process.blobs.exists(job.snapshot_key):
            return None
        self.base = job.snapshot_usage or {}
        self._resumed = True
        self.tokens = job.snapshot_tokens or 0
        return job.snapshot_key

    def due(self, run: RunLike) -> bool:
        """Every so many chunks of reading."""
        every = self._process.config.snapshot_chunks * self._process.config.chunk_tokens
        fresh = run.tokens_read - self.tokens
        # Once more when all is read: answering then never has to read again.
        return (run.phase == "reading" and fresh >= every) or (
            run.phase == "answering" and run.tokens_read >= every and fresh > 0
        )

    def take(self, run: RunLike, share: Callable[[], dict[str, Any]]) -> bool:
        """Whether there is a new one. `share` gives this attempt's own usage. Raises LeaseLost."""
        blobs = self._process.blobs
        self._number += 1
        key = key_of(self._job, run.tokens_read, self._number)
        self.tokens = run.tokens_read
        held = run.usage.to_dict()  # what the snapshot holds: writing it is not yet in it
        try:
            with blobs.create_path(key) as path:
                run.snapshot(path)
        except OSError as error:
            # A full disk costs the safety net, not the job.
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
                    usage=share(),
                    total_usage=held,
                )
            )
        except LeaseLost:
            blobs.delete(key)
            raise
        if before is not None and before != key:
            blobs.delete(before)
        return True

    def suspect(self, run: RunLike) -> bool:
        """Whether the run failed before it got past its snapshot: perhaps only that is bad."""
        return self._resumed and run.tokens_read == 0

    def distrust(self) -> None:
        """Does without the snapshot: the next attempt starts from the beginning. Raises LeaseLost."""
        key = self._job.snapshot_key
        self._log.warning("snapshot_dropped", key=key)
        self._write(lambda session: leases.drop_snapshot(session, self._job.id, self._token))
        if key is not None:
            self._process.blobs.delete(key)
