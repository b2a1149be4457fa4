"""Renews the leases of claimed jobs in a thread, while the main thread runs the engine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from store import log
from store.database import Database
from store.jobs import leases
from store.settings import Settings

_log = log.get("worker.jobs.lease_keeper")


@dataclass
class _Held:
    token: int
    phase: str
    progressed_at: float  # monotonic
    lost: bool = False
    stalled: bool = False


class LeaseKeeper:
    """A thread that renews every held lease, except those of stalled jobs.

    The lease of a job without progress for its phase's stall limit is not renewed, so another worker may take
    it. If the process hangs for another lease after that, it is ended and Celery starts a new one.
    """

    def __init__(
        self, database: Database, config: Settings, abort: Callable[[], object] = lambda: os._exit(70)
    ) -> None:
        self._database = database
        self._config = config
        self._abort = abort
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def hold(self, job_id: str, token: int) -> None:
        """Renews this lease from now on."""
        with self._lock:
            self._held[job_id] = _Held(token, "loading", time.monotonic())

    def beat(self, job_id: str, phase: str) -> None:
        """Records progress of the job, which is now in this phase."""
        with self._lock:
            held = self._held.get(job_id)
            if held is not None:
                held.phase, held.progressed_at, held.stalled = phase, time.monotonic(), False

    def drop(self, job_id: str) -> None:
        """Stops renewing: the job has ended or its lease is lost."""
        with self._lock:
            self._held.pop(job_id, None)

    def lost(self, job_id: str) -> bool:
        """Whether the last renewal found that the lease is no longer ours."""
        with self._lock:
            held = self._held.get(job_id)
            return held is None or held.lost

    def renew(self) -> None:
        """Renews once; the thread does this every `renew_seconds`."""
        now = time.monotonic()
        with self._lock:
            for job_id, held in self._held.items():
                limit = self._config.stall_seconds(held.phase)
                idle = now - held.progressed_at
                if idle > limit and not held.stalled:
                    held.stalled = True
                    _log.error("job_stalled", job=job_id, phase=held.phase, seconds=round(idle, 1))
                if idle > limit + self._config.lease_seconds:
                    _log.critical("process_hangs", job=job_id, phase=held.phase, seconds=round(idle, 1))
                    self._abort()
            mine = [
                (job_id, held.token)
                for job_id, held in self._held.items()
                if not held.lost and not held.stalled
            ]
        if not mine:
            return
        with self._database.session() as session:
            kept = leases.renew(session, mine, self._config.lease_seconds)
        with self._lock:
            for job_id, token in mine:
                held_now = self._held.get(job_id)
                if job_id not in kept and held_now is not None and held_now.token == token:
                    held_now.lost = True
                    _log.warning("lease_lost", job=job_id, token=token)

    def _run(self) -> None:
        pause = self._config.renew_seconds
        while not self._end.wait(pause):
            pause = self._config.renew_seconds
            try:
                self.renew()
            except SQLAlchemyError as error:
                _log.warning("renew_failed", error=str(error))
                pause = min(pause, 1.0)  # the lease is expiring: try again soon
