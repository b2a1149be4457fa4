"""Documents in slots: admit, step, release. Reading and answering are loops over these.

A step advances every admitted document by one unit (a chunk of tokens read, a few tokens answered), so that a
caller can watch deadlines and hand out slots in between. Each document is computed on its own, in shapes and
with a number of cores that do not depend on the others: what it answers never depends on its company.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from namm_runtime.engine.answering import Answer
from namm_runtime.engine.run import Request, Run
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import LoadedModel

__all__ = ["Answer", "Engine", "Refusal", "Request", "Run"]

LONG = 1 << 20  # bytes of a document, about 300,000 tokens


class Engine:
    """Runs documents through one model.

    Args:
        slots: documents in flight at once.
        threads: how many of these are computed side by side, each in a thread of its own with one core for
            its arithmetic. By default they take turns, and each has all the cores that torch may use; so do
            documents above `LONG` in any case, which are waited for.
    """

    def __init__(self, model: LoadedModel, slots: int = 1, threads: int = 0) -> None:
        self.model, self.slots = model, slots
        # A run stays in its lane, so what a thread keeps for itself is the run's own.
        self._lanes = [_lane(number) for number in range(threads)]
        self._active: list[_Admitted] = []

    @property
    def free_slots(self) -> int:
        return self.slots - len(self._active)

    def admit(self, request: Request, snapshot: Path | None = None) -> Run:
        """Take a document in. Nothing is computed yet.

        Args:
            snapshot: where an earlier run of the same request stopped, as `Run.snapshot` wrote it.

        Raises:
            Refusal: the request cannot be served; its code says why.
            RuntimeError: no slot is free.
        """
        if not self.free_slots:
            raise RuntimeError("no free slot")
        run = Run(request, self.model, snapshot)
        taken = [entry.lane for entry in self._active]
        # Its own size decides, not its company: sums may depend on the number of cores.
        long = request.document.is_file() and request.document.stat().st_size > LONG
        lane = None if long else min(range(len(self._lanes)), key=taken.count, default=None)
        self._active.append(_Admitted(run, run.steps(), lane))
        return run

    def step(self) -> list[Run]:
        """Advance every run by one unit. Returns those now done; those that failed carry `error`."""
        entries = list(self._active)
        for entry in entries:
            if entry.lane is None:
                entry.advance()
        self._side_by_side([entry for entry in entries if entry.lane is not None])
        finished = [entry.run for entry in entries if entry.run.phase == "done"]
        for run in finished:
            self.release(run)
        return finished

    def _side_by_side(self, entries: list["_Admitted"]) -> None:
        """One unit of each run, those of different lanes at once; they share the time that this took."""
        before = [(entry.run.usage, dict(entry.run.usage.seconds)) for entry in entries]
        begun = time.perf_counter()
        units = [self._lanes[entry.lane].submit(entry.advance) for entry in entries if entry.lane is not None]
        for unit in units:
            unit.result()
        elapsed = time.perf_counter() - begun
        # A run that went on from a snapshot has another account now, with what was used before.
        same = [
            (usage.seconds, was)
            for entry, (usage, was) in zip(entries, before, strict=True)
            if entry.run.usage is usage
        ]
        spent = sum(sum(now.values()) - sum(was.values()) for now, was in same)
        if spent <= elapsed:
            return
        # The device was busy for `elapsed` seconds, whoever was computed: no second is paid for twice.
        for now, was in same:
            for phase in now:
                now[phase] = was[phase] + (now[phase] - was[phase]) * elapsed / spent

    def release(self, run: Run) -> None:
        """Free the run's slot at once, whatever it is doing. Runs that are done have freed theirs."""
        self._active = [entry for entry in self._active if entry.run is not run]

    def complete(self, request: Request, snapshot: Path | None = None) -> Run:
        """Read and answer one request to the end.

        Raises:
            Refusal: as `admit`, or on the way. Any other exception is a defect of ours.
        """
        run = self.admit(request, snapshot)
        while run.phase != "done":
            self.step()
        if run.error:
            raise run.error
        return run


@dataclass
class _Admitted:
    run: Run
    steps: Iterator[None]
    lane: int | None

    def advance(self) -> None:
        try:
            next(self.steps, None)
        except Exception as error:  # a Refusal, or a defect that must not take the other slots along
            self.run.error, self.run.phase = error, "done"


def _lane(number: int) -> ThreadPoolExecutor:
    """A thread that computes on one core; torch keeps the number of cores for each thread apart."""
    name = f"slot-{number}"
    return ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(1,))
