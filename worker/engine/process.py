"""The state of a worker process: settings, database, blobs, and the engine once it is loaded."""

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
from worker.engine.interface import ModelNotLoaded, Served
from worker.engine.scorer_cache import ScorerCache
from worker.names import WORKER_ID
from worker.unavailable import DATABASE_UNAVAILABLE

_log = log.get("worker.engine.process")
Value = TypeVar("Value")
SETTLED_SECONDS = 5.0  # files of a model that were written more recently may still be incomplete


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
        self.scorer_cache = ScorerCache(config.scratch / "scorers", self.blobs, database, worker_id)
        self._served: Served | None = None
        self._files: tuple[object, ...] = ()  # fingerprint of the model's files when it was loaded
        self._load_seconds = 0.0

    def serve(self) -> Served:
        """The loaded engine; the first call loads the model and registers it.

        Call it between jobs only: a model whose files have been replaced is reloaded. The caller must not
        hold the previous engine, or both are in memory at once.

        Raises ModelNotLoaded, or an unexpected error of loading, after recording it in the workers table;
        jobs then stay queued for another worker.
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
                if not hasattr(error, "code"):
                    raise
                # A Refusal is no bug, and its sentence says all: no traceback in the log.
                _log.error("model_not_loaded", model=self.config.model, code=error.code, error=str(error))
                raise ModelNotLoaded(str(error)) from None
            with self.database.session() as session:
                self._register(session)
                workers.advertise(session, self.worker_id, served.card, loaded=True)
            _log.info("model_loaded", model=served.card.name, revision=served.card.revision)
            self._load_seconds += time.perf_counter() - begun
            self._served, self._files = served, files
        return self._served

    def model_replaced(self) -> bool:
        """Whether the loaded model's files have changed, and nobody is still writing to them."""
        if self._served is None:
            return False
        files = model_files.files_of(self.config)
        self._files = self._files or files  # loading may have downloaded them
        return bool(files) and files != self._files and model_files.files_age(self.config) >= SETTLED_SECONDS

    def _register(self, session: Session) -> None:
        # The parent does so too, but possibly later.
        workers.register(session, self.worker_id, socket.gethostname(), self.config.device_type)

    def take_load_seconds(self) -> float:
        """Seconds of loading that have not been billed yet: the next job is billed for them."""
        seconds, self._load_seconds = self._load_seconds, 0.0
        return seconds

    def forget_engine(self) -> None:
        """Unloads the engine, after an unexpected error in it or for a new model; the next job loads it
        again."""
        self._served = None

    def transaction(self, act: Callable[[Session], Value]) -> Value:
        """Runs a transaction; while Postgres is unavailable it is retried for the duration of a lease.

        After that the last error is raised, one of DATABASE_UNAVAILABLE.
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
    assert state.outcome is not None  # it is called after a failure
    _log.warning("database_unavailable", error=str(state.outcome.exception()))


@lru_cache(maxsize=1)
def this_process() -> WorkerProcess:
    """The instance of this process."""
    config = settings()
    return WorkerProcess(config, connect(config), os.environ[WORKER_ID])
