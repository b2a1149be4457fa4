"""Documents in slots: admit, step, release. Reading and answering are loops over these.

A step advances every admitted document by one unit (a chunk of tokens read, a few tokens answered), so that a
caller can watch deadlines and hand out slots in between. Each document is computed on its own, in shapes that
depend on it alone: what it answers never depends on its company.
"""

from collections.abc import Iterator
from pathlib import Path

from namm_runtime.answering import Answer
from namm_runtime.errors import Refusal
from namm_runtime.loading import LoadedModel
from namm_runtime.run import Request, Run

__all__ = ["Answer", "Engine", "Refusal", "Request", "Run"]


class Engine:
    """Runs documents through one model.

    Args:
        slots: documents in flight at once.
    """

    def __init__(self, model: LoadedModel, slots: int = 1) -> None:
        self.model, self.slots = model, slots
        self._active: list[tuple[Run, Iterator[None]]] = []

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
        self._active.append((run, run.steps()))
        return run

    def step(self) -> list[Run]:
        """Advance every run by one unit. Returns those now done; those that failed carry `error`."""
        finished = []
        for run, steps in list(self._active):
            try:
                next(steps, None)
            except Exception as error:  # a Refusal, or a defect that must not take the other slots along
                run.error, run.phase = error, "done"
            if run.phase == "done":
                self.release(run)
                finished.append(run)
        return finished

    def release(self, run: Run) -> None:
        """Free the run's slot at once, whatever it is doing. Runs that are done have freed theirs."""
        self._active = [entry for entry in self._active if entry[0] is not run]

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
