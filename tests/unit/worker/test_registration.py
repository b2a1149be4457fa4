"""A worker's registration: that it is asked to warm up, and what its row says when its child was replaced."""

import pytest
from kombu.exceptions import OperationalError
from sqlalchemy import select, text

from store import workers
from store.database import Database
from store.scorers import rollout
from store.settings import Settings
from store.tables.scorers import WorkerScorer
from tests.support.registry import activate, add_standin
from worker.engine.process import WorkerProcess
from worker.names import WORKER_ID
from worker.registration import Registration, forget_loaded


class Broker:
    """Takes messages, or is away."""

    away = False
    taken = 0

    def __call__(self) -> None:
        if self.away:
            raise OperationalError("away")
        self.taken += 1


def beat(registration: Registration, db: Database) -> None:
    """A heartbeat, as the thread makes it."""
    try:
        registration._beat(db)
    except OperationalError:
        return


def test_warming_up_is_asked_for_until_the_broker_took_it(
    config: Settings, db: Database, process: WorkerProcess
) -> None:
    broker = Broker()
    worker = Registration(config, broker)
    broker.away = True
    beat(worker, db)
    beat(worker, db)
    broker.away = False
    beat(worker, db)
    assert broker.taken == 1, "the worker is known since the first heartbeat, and cold"
    beat(worker, db)
    assert broker.taken == 1
    broker.away = True
    activate(db, add_standin(db, process.blobs, "2"))
    beat(worker, db)
    broker.away = False
    beat(worker, db)
    assert broker.taken == 2
    with db.session() as session:
        session.execute(text("DELETE FROM workers"))
    beat(worker, db)
    assert broker.taken == 3, "forgotten, it registers anew"


def test_what_a_replaced_child_had_loaded_is_told_no_more(
    config: Settings, db: Database, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKER_ID, "wrk_test")
    with db.session() as session:
        workers.register(session, "wrk_other", "here", "cpu")
        for worker in ("wrk_test", "wrk_other"):
            rollout.report(session, worker, "namm@2", "sha")
    forget_loaded(config)
    with db.session() as session:
        assert session.scalars(select(WorkerScorer.worker_id)).all() == ["wrk_other"]
