"""Jobs under a crossed `queue` budget wait, and go on when it no longer is."""

import pytest
from sqlalchemy import text

from store import jobs
from store.billing import budgets
from store.billing.budgets import Action
from store.database import Database
from store.jobs import leases
from store.tables.billing import Budget
from store.tables.job_states import State
from tests.support.budgets import bill, new_budget
from tests.support.claimed_jobs import USAGE, Submit, hints, look, sweep, take, token_of


@pytest.fixture
def crossed(db: Database, tenant: str) -> Budget:
    """A budget of the project `reports` that is crossed and known to be."""
    with db.session() as session:
        [now] = session.scalars(text("SELECT now()"))
        bill(session, tenant, "2", now, project="reports")
        budget = new_budget(session, tenant, "1", project="reports", action=Action.QUEUE)
        budgets.crossed(session, tenant, "reports", None)
    return budget


def forget_hints(db: Database) -> None:
    with db.session() as session:
        session.execute(text("DELETE FROM outbox WHERE kind = 'hint'"))


def test_a_held_job_is_neither_hinted_nor_claimed(db: Database, submit: Submit, crossed: Budget) -> None:
    held = submit(project="reports", held_by_budget=crossed.id)
    assert hints(db) == []
    with db.session() as session:
        session.execute(text("UPDATE jobs SET queued_at = now() - interval '1 hour'"))
        assert not leases.any_waiting(session, ["small"], "wrk_one")
    assert take(db) == []
    assert sweep(db).hinted == 0
    free = submit()
    assert [job.id for job in take(db, limit=5)] == [free.id]
    assert look(db, held).held_by_budget == crossed.id


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE bills SET booked_at = booked_at - interval '32 days'",  # the period is over
        "UPDATE budgets SET amount = 3",
        "DELETE FROM budgets",
    ],
)
def test_a_held_job_goes_on_once_nothing_is_crossed(
    db: Database, submit: Submit, crossed: Budget, change: str
) -> None:
    held = submit(project="reports", held_by_budget=crossed.id)
    assert sweep(db).released == 0
    with db.session() as session:
        session.execute(text(change))
    assert sweep(db).released == 1
    assert [hint.job_id for hint in hints(db)] == [held.id]
    assert [job.id for job in take(db)] == [held.id]


def test_a_job_that_another_crossed_budget_covers_is_held_by_it(
    db: Database, tenant: str, submit: Submit, crossed: Budget
) -> None:
    with db.session() as session:
        second = new_budget(session, tenant, "1", action=Action.QUEUE)
        budgets.crossed(session, tenant, "reports", None)
    held = submit(project="reports", held_by_budget=crossed.id)
    with db.session() as session:
        budgets.remove(session, tenant, crossed.id)
    assert sweep(db).released == 0
    assert look(db, held).held_by_budget == second.id
    assert hints(db) == []


def test_jobs_that_waited_before_the_crossing_are_held_too(
    db: Database, tenant: str, submit: Submit, crossed: Budget
) -> None:
    earlier, other = submit(project="reports"), submit(project="default")
    running = submit(project="default", model="large")
    with db.session() as session:
        new_budget(session, tenant, "1", project="default", action=Action.REJECT)
        session.execute(
            text("UPDATE jobs SET state = 'running', project = 'reports' WHERE id = :id"), {"id": running.id}
        )
    sweep(db)
    assert look(db, earlier).held_by_budget == crossed.id
    assert look(db, other).held_by_budget is None
    assert look(db, running).held_by_budget is None


def test_a_job_given_back_under_a_budget_waits_with_its_snapshot_and_loses_no_attempt(
    db: Database, submit: Submit, crossed: Budget
) -> None:
    submit(project="reports")
    [job] = take(db)
    with db.session() as session:
        leases.record_snapshot(
            session, job.id, token_of(job), key="snap", tokens=7, usage=USAGE, total_usage=USAGE
        )
        forget_hints(db)
        leases.release(session, job.id, token_of(job), usage=USAGE, lost=False, held_by=crossed.id)
    back = look(db, job)
    assert (back.state, back.held_by_budget, back.snapshot_key) == (State.QUEUED, crossed.id, "snap")
    assert back.attempts_lost == 0
    assert hints(db) == []
    with db.session() as session:
        waste = session.scalars(text("SELECT waste_seconds FROM bills WHERE job_id = :id"), {"id": job.id})
        assert waste.one() == 0


def test_a_held_job_can_be_cancelled_and_is_held_no_more(
    db: Database, tenant: str, submit: Submit, crossed: Budget
) -> None:
    held = submit(project="reports", held_by_budget=crossed.id)
    with db.session() as session:
        cancelled = jobs.cancel(session, tenant, held.id)
    assert (cancelled.state, cancelled.held_by_budget) == (State.CANCELLED, None)
