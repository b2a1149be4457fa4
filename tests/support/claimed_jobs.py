"""Jobs claimed, looked at and swept, as a worker and the reaper would."""

from collections.abc import Callable

from store import jobs, outbox
from store.database import Database
from store.jobs import leases, reaper
from store.tables.jobs import Job
from tests.unit.store.conftest import HOLDER

Submit = Callable[..., Job]


USAGE = {"seconds": {"read": 2.0, "answer": 1.0}, "tokens_document": 100, "kv_byte_seconds": 50.0}


def take(db: Database, limit: int = 1, lease_seconds: float = 30) -> list[Job]:
    with db.session() as session:
        return leases.claim(session, ["small"], HOLDER, limit=limit, lease_seconds=lease_seconds)


def token_of(job: Job) -> int:
    assert job.lease_token is not None
    return job.lease_token


def look(db: Database, job: Job) -> Job:
    with db.session() as session:
        return jobs.get(session, job.tenant_id, job.id)


def sweep(db: Database) -> reaper.Reaped:
    with db.session() as session:
        return reaper.sweep(session, hint_seconds=60)


def hints(db: Database) -> list[outbox.Hint]:
    with db.session() as session:
        return outbox.lock_hints(session)
