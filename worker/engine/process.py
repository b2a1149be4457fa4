"""What one worker process has: settings, database, blobs, and the engine once it is loaded."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from sqlalchemy.orm import Session
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from store import blobs, log, workers
from store.database import Database, connect
from store.jobs import leases
from store.settings import Settings, settings
from worker.engine import model_files, runtime
from worker.engine.interface import Served
from worker.engine.scorer_cache import Shelf
from worker.names import WORKER_ID
from worker.unavailable import DATABASE_UNAVAILABLE

_log = log.get("worker.engine.process")
Value = TypeVar("Value")
SETTLED_SECONDS = 5.0  # a model's files that were written more recently may still be on their way


class WorkerProcess:
    """The child of a Celery worker: the only process that loads a model."""

    def __init__(self, config: Settings, database: Database, worker_id: str) -> None:
        self.config = config
        self.database = database
        self.blobs = blobs.connect(config)
        self.worker_id = worker_id
        self.models = [config.served_model]
        self.holder = leases.Holder(
            worker=f"{worker_id}/{os.getpid()}",
            device_type=config.device_type,
            device_memory_bytes=config.device_memory_bytes,
        )
        self.shelf = Shelf(config.scratch / "scorers", self.blobs, database, worker_id)
        self._served: Served | None = None
        self._files: tuple[object, ...] = ()  # of the model, when it was loaded
        self._load_seconds = 0.0

    def serve(self) -> Served:
        """The loaded engine; the first call loads it and registers what was loaded.

        Only for between jobs: a model whose files have been replaced is loaded anew. The caller should hold
        no engine of before, or both are in memory.

        Raises what the loading raises, after it is noted in the workers table: jobs then stay queued for a
        worker that can serve them.
        """
        if self.model_replaced():
            _log.info("model_replaced", model=self.config.model)
            self.forget_engine()
        if self._served is None:
            begun = time.perf_counter()
            files = model_files.files_of(self.config)
            try:
                served = runtime.load_from(self.config)
            except Exception as error:
                with self.database.session() as session:
                    self._register(session)
                    workers.record_error(session, self.worker_id, self.config.served_model, str(error))
                raise
            with self.database.session() as session:
                self._register(session)
                workers.advertise(session, self.worker_id, served.card, loaded=True)
            _log.info("model_loaded", model=served.card.name, revision=served.card.revision)
            self._load_seconds += time.perf_counter() - begun
            self._served, self._files = served, files
        return self._served

    def model_replaced(self) -> bool:
        """Whether the loaded model's files are others now, and nobody is writing to them any more."""
        if self._served is None:
            return False
        files = model_files.files_of(self.config)
        self._files = self._files or files  # loading may have been what brought them
        return bool(files) and files != self._files and model_files.files_age(self.config) >= SETTLED_SECONDS

    def _register(self, session: Session) -> None:
        # The parent does it too, perhaps later.
        workers.register(session, self.worker_id, socket.gethostname(), self.config.device_type)

    def take_load_seconds(self) -> float:
        """Seconds of loading that no job has been billed for: the first one after it pays."""
        seconds, self._load_seconds = self._load_seconds, 0.0
        return seconds

    def forget_engine(self) -> None:
        """The next job gets a freshly loaded one: after an unexpected error inside it, or for a new model."""
        self._served = None

    def transaction(self, act: Callable[[Session], Value]) -> Value:
        """One transaction; while Postgres is away it is tried again for as long as a lease may stand.

        After that it raises the error of the last try, one of DATABASE_UNAVAILABLE.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(DATABASE_UNAVAILABLE),
            wait=wait_fixed(0.5),
            stop=stop_after_delay(self.config.lease_seconds),
            before_sleep=_warn,
            reraise=True,
        )
        done: Value = retrying(self._attempt, act)
        return done

    def _attempt(self, act: Callable[[Session], Value]) -> Value:
        with self.database.session() as session:
            return act(session)

    def any_waiting(self) -> bool:
        """Whether there is a job to claim."""
        return self.transaction(lambda session: leases.any_waiting(session, self.models, self.holder.worker))

    def is_stopping(self) -> bool:
        """Whether the worker was told to stop."""
        return self.transaction(lambda session: workers.is_stopping(session, self.worker_id))


def _warn(state: RetryCallState) -> None:
    assert state.outcome is not None  # tenacity warns between a failure and the next try
    _log.warning("database_away", error=str(state.outcome.exception()))


@lru_cache(maxsize=1)
def this_process() -> WorkerProcess:
    """The one of this process."""
    config = settings()
    return WorkerProcess(config, connect(config), os.environ[WORKER_ID])
