"""Shadow runs: the same document again with a canary, once its job has been answered and written.

A shadow run holds no lease and books nothing. It takes a slot that a job could have had, so there is one at a
time; a worker that is told to stop leaves it.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from store import documents, log
from store.scorers import registry, shadow_runs
from store.scorers.shadow_runs import ShadowOutcome
from store.tables.jobs import Job
from store.tables.scorers import ScorerVersion
from worker.engine import Served
from worker.engine.interface import RunLike, answers_of
from worker.engine.process import WorkerProcess
from worker.scorers import resolver

_log = log.get("worker.scorers.shadow_runs")

MOST_WAITING = 16  # more are left out: the canary then reads fewer documents than it was meant to


@dataclass(frozen=True)
class Task:
    """A job that has been answered, and the version to read it again with."""

    job: Job
    version: ScorerVersion
    stable: str  # name@version that answered
    answers: list[str]


class Shadows:
    """What waits to be read again, and the one run under way. No method raises what a run may raise."""

    def __init__(self, process: WorkerProcess) -> None:
        self._process = process
        self._waiting: deque[Task] = deque(maxlen=MOST_WAITING)
        self._task: Task | None = None
        self._run: RunLike | None = None
        self._served: Served | None = None  # the engine that it is in
        self._files = ExitStack()

    @property
    def running(self) -> bool:
        """Whether one is in the engine."""
        return self._run is not None

    def add(self, task: Task) -> None:
        """To be read when a slot is free."""
        self._waiting.append(task)

    def start(self, served: Served) -> None:
        """Puts the next one into a free slot, if there is one and none is under way."""
        while self._waiting and self._run is None and served.engine.free_slots > 0:
            self._task = self._waiting.popleft()
            try:
                self._run = self._admit(served, self._task)
                self._served = served
            except Exception as error:
                self._end(ShadowOutcome.NOT_MADE, error)

    def stepped(self, finished: list[object]) -> None:
        """After a step of the engine: compares and writes, if the run under way is among the finished."""
        run = self._run
        if run is not None and any(run is done for done in finished):
            self._end(ShadowOutcome.ANSWERED if run.error is None else ShadowOutcome.BROKE, run.error)

    def broke(self, error: BaseException, *, guilty: bool) -> None:
        """The engine raised while the run was in it; without proof that it did it, that says nothing."""
        if self._task is not None:
            self._end(ShadowOutcome.BROKE if guilty else ShadowOutcome.NOT_MADE, error)

    def abandon(self) -> None:
        """Leaves everything as if it had never been drawn."""
        self._waiting.clear()
        if self._run is not None and self._served is not None:
            self._served.engine.release(self._run)
        self._clear()

    def _admit(self, served: Served, task: Task) -> RunLike:
        process = self._process
        pin = resolver.take(process, served, task.version, task.job)
        with process.database.session() as session:
            document = documents.of_job(session, task.job.document_id)
        path = self._files.enter_context(process.blobs.local(document.blob_key))
        run: RunLike = served.engine.admit(served.make_request(task.job, path, pin))
        return run

    def _end(self, outcome: ShadowOutcome, error: BaseException | None) -> None:
        task, run = self._task, self._run
        assert task is not None
        self._clear()
        said = None if error is None else f"{getattr(error, 'code', type(error).__name__)}: {error}"
        texts = [answer["text"] for answer in answers_of(run)] if run is not None else []
        same = sum(text == before for text, before in zip(texts, task.answers, strict=False))
        seconds = sum(run.usage.to_dict()["seconds"].values()) if run is not None else 0.0
        try:
            with self._process.database.session() as session:
                shadow_runs.record(
                    session,
                    task.job,
                    task.version.id,
                    outcome,
                    stable=task.stable,
                    answers=len(texts),
                    agreed=same,
                    device_seconds=seconds,
                    error=said,
                )
        except SQLAlchemyError as trouble:
            _log.warning("shadow_not_written", job=task.job.id, error=str(trouble))
        label = registry.label(task.version)
        _log.info("shadow_ended", job=task.job.id, scorer=label, outcome=outcome.value, error=said)

    def _clear(self) -> None:
        self._files.close()
        self._task = self._run = self._served = None
