"""What the task `drain` does: claim for every free slot, step, claim again, end when no job waits."""

from __future__ import annotations

import time

from store import log
from store.jobs import leases
from store.scorers import registry
from worker.engine import Served
from worker.engine.process import WorkerProcess
from worker.jobs.execution import Execution
from worker.jobs.lease_keeper import LeaseKeeper
from worker.scorers.shadow_runs import Shadows
from worker.scorers.verification import verify_uploads

_log = log.get("worker.jobs.claim_loop")


def drain_jobs(process: WorkerProcess) -> int:
    """Works until no job waits or the worker is told to stop; gives how many jobs it took."""
    if process.is_stopping() or not process.any_waiting():
        return 0
    with LeaseKeeper(process.database, process.config) as keeper:
        return _Drain(process, process.serve(), keeper).work()


class _Drain:
    def __init__(self, process: WorkerProcess, served: Served, keeper: LeaseKeeper) -> None:
        self._process = process
        self._served = served
        self._keeper = keeper
        self._active: list[Execution] = []
        self._shadows = Shadows(process)
        self._taken = 0
        self._looked_at = 0.0  # monotonic time of the last look at the database
        self._freed = False  # a job has ended since

    def work(self) -> int:
        try:
            return self._work()
        finally:
            # Whatever ended this, the engine outlives it: no run may keep a slot that nobody steps any more.
            for execution in self._active:
                execution.abandon()
            self._shadows.abandon()

    def _work(self) -> int:
        while True:
            if self._look_due():
                if self._process.is_stopping():
                    for execution in self._active:
                        execution.give_back()
                    return self._taken
                if self._claim() and not self._busy:
                    continue  # all ended on arrival: go on with the next ones
            if not self._busy:
                return self._taken
            self._step()

    @property
    def _busy(self) -> bool:
        return bool(self._active) or self._shadows.running

    def _look_due(self) -> bool:
        """An idle engine and one with a slot that was just freed look at once, a busy one once a second."""
        now = time.monotonic()
        due = not self._busy or self._freed or now - self._looked_at >= self._process.config.progress_seconds
        if due:
            self._looked_at, self._freed = now, False
        return due

    def _claim(self) -> int:
        """Fills the free slots; gives how many jobs were taken, those that ended on arrival too."""
        process = self._process
        if process.model_replaced():
            if self._busy:
                return 0  # no new ones: what is under way ends with the model it began with
            self._load_again()
        if process.transaction(registry.any_to_verify):
            if self._busy:
                return 0  # uploads come before new jobs, or they would wait for ever behind a full queue
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
        self._taken += len(claimed)
        executions = [Execution(job, self._served, process, self._keeper) for job in claimed]
        self._active += executions
        for execution in executions:
            execution.start()
        self._active = [execution for execution in self._active if not execution.over]
        return len(claimed)

    def _step(self) -> None:
        try:
            finished = self._served.engine.step()
        except Exception as error:
            _log.exception("engine_broke", jobs=[execution.job.id for execution in self._active])
            alone, shadowed = len(self._active) == 1, self._shadows.running
            for execution in self._active:
                # No job depends on a shadow, so none pays for one: it is not read a second time.
                execution.broke(error, guilty=alone and not shadowed, counted=not shadowed)
            self._shadows.broke(error, guilty=not self._active)
            self._active = []
            self._process.forget_engine()
            self._load_again()
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
        left = [execution for execution in self._active if not execution.over]
        self._freed |= len(left) < len(self._active)
        self._active = left

    def _load_again(self) -> None:
        del self._served  # the old model goes before the new one comes
        self._served = self._process.serve()
