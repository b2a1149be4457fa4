"""The engine's slots: admit a document, step, release it.

A step advances every admitted document by one unit of work (one chunk of tokens read, or a few tokens of an
answer), so that a caller can check deadlines and assign slots in between. Each document is computed
separately, in shapes and with a number of cores that do not depend on the others, so its answers never depend
on which other documents are in flight.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from namm_runtime.engine.answering import Answer
from namm_runtime.engine.request import Request
from namm_runtime.engine.run import Run
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import LoadedModel

__all__ = ["Answer", "Engine", "Refusal", "Request", "Run"]

LONG = 1 << 20  # bytes of a document, about 300,000 tokens


class Engine:
    """Runs documents through one model.

    Args:
        slots: maximum number of documents in flight.
        threads: how many of them are computed in parallel, each in its own thread on one core. With 0 they
            take turns, and each uses all the cores that torch may use. Documents larger than `LONG` always
            use all cores, one at a time.
    """

    def __init__(self, model: LoadedModel, slots: int = 1, threads: int = 0) -> None:
        self.model, self.slots = model, slots
        # A run stays on one lane, so thread-local buffers belong to it.
        self._lanes = [_lane(number) for number in range(threads)]
        self._active: list[_Admitted] = []

    @property
    def free_slots(self) -> int:
        return self.slots - len(self._active)

    def admit(self, request: Request, snapshot: Path | None = None) -> Run:
        """Assign a slot to a document. Nothing is computed yet.

        Args:
            snapshot: written by `Run.snapshot` of an earlier run of the same request, to resume from.

        Raises:
            Refusal: the request cannot be served; its code says why.
            RuntimeError: no slot is free.
        """
        if not self.free_slots:
            raise RuntimeError("no free slot")
        run = Run(request, self.model, snapshot)
        taken = [entry.lane for entry in self._active]
        # Only its own size decides, since the order of summation may depend on the number of cores.
        long = request.document.is_file() and request.document.stat().st_size > LONG
        lane = None if long else min(range(len(self._lanes)), key=taken.count, default=None)
        self._active.append(_Admitted(run, run.steps(), lane))
        return run

    def step(self) -> list[Run]:
        """Advance every run by one unit of work. Returns the runs now done; failed ones have `error` set."""
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
        """One unit of each run, lanes in parallel; the elapsed time is divided among the runs."""
        before = [(entry.run.usage, dict(entry.run.usage.seconds)) for entry in entries]
        begun = time.perf_counter()
        units = [self._lanes[entry.lane].submit(entry.advance) for entry in entries if entry.lane is not None]
        for unit in units:
            unit.result()
        elapsed = time.perf_counter() - begun
        # A run that resumed from a snapshot in this step has a new usage, which includes earlier attempts.
        same = [
            (usage.seconds, was)
            for entry, (usage, was) in zip(entries, before, strict=True)
            if entry.run.usage is usage
        ]
        spent = sum(sum(now.values()) - sum(was.values()) for now, was in same)
        if spent <= elapsed:
            return
        # The device was busy for `elapsed` seconds in total: no second is billed twice.
        for now, was in same:
            for phase in now:
                now[phase] = was[phase] + (now[phase] - was[phase]) * elapsed / spent

    def release(self, run: Run) -> None:
        """Free a run's slot immediately, in any phase. Finished runs have already freed theirs."""
        self._active = [entry for entry in self._active if entry.run is not run]

    def complete(self, request: Request, snapshot: Path | None = None) -> Run:
        """Run one request to completion.

        Raises:
            Refusal: as `admit`, or while running. Any other exception is a bug.
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
        except Exception as error:  # a Refusal, or a bug that must not affect the other slots
            self.run.error, self.run.phase = error, "done"


def _lane(number: int) -> ThreadPoolExecutor:
    """An executor with one thread that computes on one core; torch's number of threads is per thread."""
    name = f"slot-{number}"
    return ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(1,))
