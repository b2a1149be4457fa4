"""Keeps a worker's row in the workers table: registered, alive, told to stop, stopped.

On start the parent process registers the model as its files describe it, so that the API knows the model
within seconds, and asks the child to load it; the child then registers the loaded model. The parent never
loads torch.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.utils.nodenames import worker_direct
from kombu.exceptions import KombuError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from store import log, workers
from store.database import Database, connect
from store.ids import new_id
from store.scorers import rollout
from store.settings import Settings
from store.workers import ModelCard
from worker.engine.model_files import describe
from worker.names import WARM_UP, WORKER_ID

_log = log.get("worker.registration")


class Registration:
    """A thread of the parent process: registers the worker, sends its heartbeat, has it warm up for newly
    activated scorers, and passes on the request to stop."""

    def __init__(self, config: Settings, warm: Callable[[], object]) -> None:
        self.worker_id = new_id("wrk")
        self._config = config
        self._warm = warm
        self._newest: int | None = None  # newest activation that the worker was warmed up for
        self._cold = True  # until it has been asked to warm up
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Starts the thread; it registers the worker as soon as Postgres answers."""
        self._thread.start()

    def stop(self) -> None:
        """Makes the running task hand its jobs back. Called from a signal handler, so it only sets flags."""
        self._stopping.set()
        self._wake.set()

    def end(self) -> None:
        """Records that the worker has stopped, and waits for that."""
        self._ended.set()
        self._wake.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        database = connect(self._config)
        pause = 0.0
        while not self._ended.is_set():
            try:
                self._beat(database)
                pause = self._config.heartbeat_seconds
            except (SQLAlchemyError, KombuError) as error:
                _log.warning("heartbeat_failed", error=str(error))
                pause = min(1.0, self._config.heartbeat_seconds)
            self._wake.wait(pause)
            self._wake.clear()
        try:
            with database.session() as session:
                workers.mark_stopped(session, self.worker_id)
        except SQLAlchemyError as error:
            _log.warning("stop_not_recorded", error=str(error))
        database.close()

    def _beat(self, database: Database) -> None:
        with database.session() as session:
            known = workers.heartbeat(session, self.worker_id)
            if not known:
                workers.register(session, self.worker_id, socket.gethostname(), self._config.device_type)
                self._advertise(session)
                self._cold = True
            if self._stopping.is_set():
                workers.request_stop(session, self.worker_id)
            newest = rollout.newest(session)
        if self._cold or newest != self._newest:
            self._warm()  # if the broker is unavailable, the next heartbeat asks again
            self._cold, self._newest = False, newest

    def _advertise(self, session: Session) -> None:
        try:
            card = describe(self._config)
        except (OSError, ValueError) as error:
            _log.error("model_unreadable", model=self._config.model, error=str(error))
            card = ModelCard(
                self._config.served_model
            )  # the child tries to load it and reports why it cannot
        workers.advertise(session, self.worker_id, card, loaded=False)


def forget_loaded(config: Settings) -> None:
    """In a new child: clears the scorers that the previous child reported as loaded."""
    database = connect(config)
    try:
        with database.session() as session:
            rollout.forget(session, os.environ[WORKER_ID])
    except SQLAlchemyError as error:
        _log.warning(
            "loaded_not_cleared", error=str(error)
        )  # the scorer cache clears them before its first load
    finally:
        database.close()


def connect_signals(app: Celery, config: Settings) -> None:
    """Starts and ends a Registration with the worker's parent process. A child receives the last of these
    signals only."""
    registrations: list[Registration] = []

    def begin(sender: Any, **_: Any) -> None:
        own_queue = worker_direct(sender.hostname)
        registration = Registration(
            config, lambda: app.send_task(WARM_UP, queue=own_queue, ignore_result=True)
        )
        registrations.append(registration)
        os.environ[WORKER_ID] = registration.worker_id

    def ready(**_: Any) -> None:
        registrations[0].start()

    def stopping(**_: Any) -> None:
        for registration in registrations:
            registration.stop()

    def gone(**_: Any) -> None:
        for registration in registrations:
            registration.end()

    def begun(**_: Any) -> None:
        forget_loaded(config)

    signals.worker_init.connect(begin, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(stopping, weak=False)
    signals.worker_shutdown.connect(gone, weak=False)
    signals.worker_process_init.connect(begun, weak=False)
