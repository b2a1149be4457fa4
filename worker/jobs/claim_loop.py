"""The claim loop: claims jobs for the free slots and steps the engine, until no job waits."""

from __future__ import annotations

import time

from store import log
from store.jobs import leases
from store.scorers import registry
from worker.engine import Served
from worker.engine.process import WorkerProcess
from worker.jobs.execution import Execution
from worker.jobs.lease_keeper import LeaseKeeper
from worker.scorers.shadow_runs import ShadowRuns
from worker.scorers.verification import verify_uploads

_log = log.get("worker.jobs.claim_loop")


def run_jobs(process: WorkerProcess) -> int:
    """Runs jobs until none waits or the worker is told to stop; returns how many were claimed."""
    if process.is_stopping() or not process.any_waiting():
        return 0
    with LeaseKeeper(process.database, process.config) as keeper:
        return _ClaimLoop(process, process.serve(), keeper).work()


class _ClaimLoop:
    def __init__(self, process: WorkerProcess, served: Served, keeper: LeaseKeeper) -> None:
        self._process = process
        self._served = served
        self._keeper = keeper
        self._active: list[Execution] = []
        self._shadows = ShadowRuns(process)
        self._claimed = 0
        self._polled_at = 0.0  # monotonic time of the last query for jobs
        self._slot_freed = False  # a job has ended since

    def work(self) -> int:
        try:
            return self._work()
        finally:
            # The engine outlives this loop: no run may keep a slot in which nobody steps it any more.
            for execution in self._active:
                execution.abandon()
            self._shadows.abandon()

    def _work(self) -> int:
        while True:
            if self._poll_due():
                if self._process.is_stopping():
                    for execution in self._active:
                        execution.hand_back()
                    return self._claimed
                if self._claim() and not self._busy:
                    continue  # all ended immediately: claim the next ones
            if not self._busy:
                return self._claimed
            self._step()

    @property
    def _busy(self) -> bool:
        return bool(self._active) or self._shadows.running

    def _poll_due(self) -> bool:
        """Whether to query for jobs: immediately if idle or if a slot was freed, otherwise once a second."""
        now = time.monotonic()
        due = (
            not self._busy
            or self._slot_freed
            or now - self._polled_at >= self._process.config.progress_seconds
        )
        if due:
            self._polled_at, self._slot_freed = now, False
        return due

    def _claim(self) -> int:
        """Claims jobs for the free slots; returns how many, including those that ended immediately."""
        process = self._process
        if process.model_replaced():
            if self._busy:
                return 0  # running jobs finish with the model they started with
            self._reload()
        if process.transaction(registry.any_to_verify):
            if self._busy:
                return 0  # uploads go before new jobs, or a full queue would starve them
            verify_uploads(process)
        free = self._served.engine.free_slots
        if free < 1:
            return 0
        claimed = process.transaction(
            lambda session: leases.claim(
                session,
                process.models,
                process.holder,
                limit=free,
                lease_seconds=process.config.lease_seconds,
            )
        )
        self._claimed += len(claimed)
        executions = [Execution(job, self._served, process, self._keeper) for job in claimed]
        self._active += executions
        for execution in executions:
            execution.start()
        self._active = [execution for execution in self._active if not execution.ended]
        return len(claimed)

    def _step(self) -> None:
        try:
            finished = self._served.engine.step()
        except Exception as error:
            _log.exception("engine_failed", jobs=[execution.job.id for execution in self._active])
            alone, shadowed = len(self._active) == 1, self._shadows.running
            for execution in self._active:
                # A failure while a shadow run is in the engine must not use up an attempt of a job.
                execution.engine_failed(error, at_fault=alone and not shadowed, counts_as_lost=not shadowed)
            self._shadows.engine_failed(error, at_fault=not self._active)
            self._active = []
            self._process.forget_engine()
            self._reload()
            return
        for execution in self._active:
            if any(execution.run is run for run in finished):
                execution.done()
            else:
                execution.stepped()
            if execution.shadow is not None:
                self._shadows.add(execution.shadow)
        self._shadows.stepped(finished)
        self._shadows.start(self._served)
        left = [execution for execution in self._active if not execution.ended]
        self._slot_freed |= len(left) < len(self._active)
        self._active = left

    def _reload(self) -> None:
        del self._served  # unload the old model before the new one is loaded
        self._served = self._process.serve()
