"""The worker's parent process in the workers table: there, alive, told to stop, gone.

It registers what the model's files say on start, so that the API knows the model within seconds, and asks the
child to load it; the child then registers what it has loaded. The parent itself never loads torch.
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
from worker.names import WARM, WORKER_ID

_log = log.get("worker.registration")


class Presence:
    """A thread of the parent: registers the worker, keeps its heartbeat, has it warm up for what begins to
    serve, and passes on that it is to stop."""

    def __init__(self, config: Settings, warm: Callable[[], object]) -> None:
        self.worker_id = new_id("wrk")
        self._config = config
        self._warm = warm
        self._newest: int | None = None  # activation that the worker was warmed up for
        self._cold = True  # until it was asked to warm up
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Starts the thread; it registers the worker as soon as Postgres answers."""
        self._thread.start()

    def stop(self) -> None:
        """Has the running task give its jobs back. Called from a signal handler, so it only sets flags."""
        self._stopping.set()
        self._wake.set()

    def end(self) -> None:
        """Says goodbye and waits for it to be written."""
        self._ended.set()
        self._wake.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        database = connect(self._config)
        pause = 0.0
        while not self._ended.is_set():
            try:
                self._tell(database)
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
            _log.warning("goodbye_failed", error=str(error))
        database.close()

    def _tell(self, database: Database) -> None:
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
            self._warm()  # the broker may be away: then the next heartbeat asks again
            self._cold, self._newest = False, newest

    def _advertise(self, session: Session) -> None:
        try:
            card = describe(self._config)
        except (OSError, ValueError) as error:
            _log.error("model_unreadable", model=self._config.model, error=str(error))
            card = ModelCard(self._config.served_model)  # the child will try to load it, and say more
        workers.advertise(session, self.worker_id, card, loaded=False)


def replaced(config: Settings) -> None:
    """In a new child: what the one before it had loaded is loaded no more, whatever that has said."""
    database = connect(config)
    try:
        with database.session() as session:
            rollout.forget(session, os.environ[WORKER_ID])
    except SQLAlchemyError as error:
        _log.warning("loaded_not_forgotten", error=str(error))  # the shelf does it before its first load
    finally:
        database.close()


def watch(app: Celery, config: Settings) -> None:
    """Ties a Presence to the life of the worker's parent process. A child gets the last signal alone, others
    none."""
    presences: list[Presence] = []

    def begin(sender: Any, **_: Any) -> None:
        own_queue = worker_direct(sender.hostname)
        presence = Presence(config, lambda: app.send_task(WARM, queue=own_queue, ignore_result=True))
        presences.append(presence)
        os.environ[WORKER_ID] = presence.worker_id

    def ready(**_: Any) -> None:
        presences[0].start()

    def stopping(**_: Any) -> None:
        for presence in presences:
            presence.stop()

    def gone(**_: Any) -> None:
        for presence in presences:
            presence.end()

    def begun(**_: Any) -> None:
        replaced(config)

    signals.worker_init.connect(begin, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(stopping, weak=False)
    signals.worker_shutdown.connect(gone, weak=False)
    signals.worker_process_init.connect(begun, weak=False)
