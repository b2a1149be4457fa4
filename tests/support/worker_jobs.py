"""What tests of a worker look up about its jobs, and how they act in between steps of the engine."""

from collections.abc import Callable

import pytest

from store import jobs
from store.billing import ledger
from store.database import Database
from store.tables.billing import UsageLine
from store.tables.jobs import Job, Result
from tests.support.standin import Engine

Submit = Callable[..., Job]


def look(db: Database, job: Job) -> Job:
    with db.session() as session:
        return jobs.get(session, job.tenant_id, job.id)


def result(db: Database, job: Job) -> Result | None:
    with db.session() as session:
        return jobs.result(session, job.tenant_id, job.id)


def ledger_of(db: Database, job: Job) -> list[UsageLine]:
    with db.session() as session:
        return ledger.lines(session, job.tenant_id, job.id)


def after_steps(monkeypatch: pytest.MonkeyPatch, steps: int, act: Callable[[], object]) -> None:
    """Lets something happen from outside after so many steps of the engine."""
    original, count = Engine.step, [0]

    def step(self: Engine) -> list[object]:
        count[0] += 1
        if count[0] == steps:
            act()
        return original(self)  # type: ignore[return-value]

    monkeypatch.setattr(Engine, "step", step)
