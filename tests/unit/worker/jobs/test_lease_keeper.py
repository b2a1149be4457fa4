"""The lease keeper: renews what moves, lets go of what does not, notices what was taken."""

import time
from collections.abc import Callable

import pytest
from sqlalchemy import text

from store import jobs
from store.database import Database
from store.jobs import leases
from store.settings import Settings
from store.tables.jobs import Job
from worker.engine.process import WorkerProcess
from worker.jobs.lease_keeper import LeaseKeeper

Submit = Callable[..., Job]


def claim(process: WorkerProcess) -> Job:
    with process.database.session() as session:
        [job] = leases.claim(session, ["small"], process.holder, limit=1, lease_seconds=30)
    return job


def seconds_left(db: Database, job: Job) -> float:
    with db.session() as session:
        query = text("SELECT extract(epoch FROM lease_expires_at - now()) FROM jobs WHERE id = :id")
        return float(session.scalar(query, {"id": job.id}))  # type: ignore[arg-type]


def age_lease(db: Database) -> None:
    with db.session() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = now() + interval '1 s'"))


@pytest.fixture
def held(process: WorkerProcess, submit: Submit, db: Database) -> Job:
    submit()
    job = claim(process)
    age_lease(db)
    return job


def test_moving_job_is_renewed_until_it_is_dropped(db: Database, config: Settings, held: Job) -> None:
    assert held.lease_token
    keeper = LeaseKeeper(db, config)
    keeper.hold(held.id, held.lease_token)
    keeper.renew()
    assert seconds_left(db, held) > 20
    age_lease(db)
    keeper.drop(held.id)
    keeper.renew()
    assert seconds_left(db, held) < 2


def test_the_thread_renews_while_nobody_calls(db: Database, config: Settings, held: Job) -> None:
    assert held.lease_token
    with LeaseKeeper(db, config) as keeper:
        keeper.hold(held.id, held.lease_token)
        for _ in range(200):
            if seconds_left(db, held) > 20:
                break
            time.sleep(0.05)
    assert seconds_left(db, held) > 20


def test_stalled_job_is_let_go_and_a_hanging_process_ended(
    db: Database, config: Settings, held: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert held.lease_token
    aborted: list[bool] = []
    clock = [time.monotonic()]
    monkeypatch.setattr("worker.jobs.lease_keeper.time.monotonic", lambda: clock[0])
    keeper = LeaseKeeper(db, config, abort=lambda: aborted.append(True))
    keeper.hold(held.id, held.lease_token)
    keeper.beat(held.id, "reading")
    clock[0] += config.stall_reading_seconds + 1
    keeper.renew()
    assert seconds_left(db, held) < 2
    assert not aborted
    keeper.beat(held.id, "reading")  # it moves after all
    keeper.renew()
    assert seconds_left(db, held) > 20
    clock[0] += config.stall_reading_seconds + config.lease_seconds + 1
    keeper.renew()
    assert aborted


def test_taken_lease_is_noticed(db: Database, config: Settings, held: Job, tenant: str) -> None:
    assert held.lease_token
    keeper = LeaseKeeper(db, config)
    keeper.hold(held.id, held.lease_token)
    assert not keeper.lost(held.id)
    with db.session() as session:
        leases.release(session, held.id, held.lease_token, usage=None, lost=True)
    keeper.renew()
    assert keeper.lost(held.id)
    with db.session() as session:
        assert jobs.get(session, tenant, held.id).state == "queued"
