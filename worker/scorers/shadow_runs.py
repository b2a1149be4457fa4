"""Shadow runs: a document is read again with a canary, after its job has succeeded, to compare the answers.

A shadow run holds no lease and is not billed. It occupies a slot that a job could use, so there is one at a
time; a worker that is told to stop abandons it.
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

MAX_WAITING = 16  # beyond this the oldest are dropped, and the canary reads fewer documents than configured


@dataclass(frozen=True)
class ShadowTask:
    """A succeeded job, and the version to read its document with."""

    job: Job
    version: ScorerVersion
    stable: str  # name@version that answered
    answers: list[str]


class ShadowRuns:
    """The waiting shadow runs and the one in progress. No method raises an error of a run."""

    def __init__(self, process: WorkerProcess) -> None:
        self._process = process
        self._waiting: deque[ShadowTask] = deque(maxlen=MAX_WAITING)
        self._task: ShadowTask | None = None
        self._run: RunLike | None = None
        self._served: Served | None = None  # the engine of the run
        self._files = ExitStack()

    @property
    def running(self) -> bool:
        """Whether a shadow run is in the engine."""
        return self._run is not None

    def add(self, task: ShadowTask) -> None:
        """Queues a shadow run for the next free slot."""
        self._waiting.append(task)

    def start(self, served: Served) -> None:
        """Starts the next one if a slot is free and none is in progress."""
        while self._waiting and self._run is None and served.engine.free_slots > 0:
            self._task = self._waiting.popleft()
            try:
                self._run = self._admit(served, self._task)
                self._served = served
            except Exception as error:
                self._end(ShadowOutcome.NOT_MADE, error)

    def stepped(self, finished: list[object]) -> None:
        """After a step of the engine: records the comparison if the run has finished."""
        run = self._run
        if run is not None and any(run is done for done in finished):
            self._end(ShadowOutcome.ANSWERED if run.error is None else ShadowOutcome.BROKE, run.error)

    def engine_failed(self, error: BaseException, *, at_fault: bool) -> None:
        """The engine raised while the run was in it. Counts as the version's failure only if `at_fault`."""
        if self._task is not None:
            self._end(ShadowOutcome.BROKE if at_fault else ShadowOutcome.NOT_MADE, error)

    def abandon(self) -> None:
        """Discards pending shadow runs."""
        self._waiting.clear()
        if self._run is not None and self._served is not None:
            self._served.engine.release(self._run)
        self._clear()

    def _admit(self, served: Served, task: ShadowTask) -> RunLike:
        process = self._process
        pin = resolver.load(process, served, task.version, task.job)
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
            _log.warning("shadow_not_recorded", job=task.job.id, error=str(trouble))
        label = registry.label(task.version)
        _log.info("shadow_ended", job=task.job.id, scorer=label, outcome=outcome.value, error=said)

    def _clear(self) -> None:
        self._files.close()
        self._task = self._run = self._served = None
