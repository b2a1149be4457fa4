"""Holds jobs in the queue while a `queue` budget is crossed, and releases them afterwards.

Claims check one column of a job, `held_by_budget`. It is set when a job is submitted or given back under a
crossed budget; the reaper's sweep sets it for jobs already queued, and clears it again.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from store import outbox
from store.billing import budgets
from store.billing.budgets import Action
from store.tables.billing import Budget
from store.tables.job_states import State
from store.tables.jobs import Job


def sweep(session: Session, limit: int) -> int:
    """Releases jobs that no crossed budget holds, and holds queued ones under one; returns the releases.

    Skips locked jobs, which the next sweep gets.
    """
    waiting = and_(Job.state == State.QUEUED, Job.held_by_budget.is_not(None))
    holding = set(session.scalars(select(Job.held_by_budget).where(waiting).distinct()))
    known = select(Budget).where(
        Budget.action == Action.QUEUE, or_(Budget.crossed_at.is_not(None), Budget.id.in_(holding))
    )
    rows = session.scalars(known.order_by(Budget.id)).all()
    crossed = [budget for budget in rows if budgets.state(session, budget).crossed]
    over = holding - {budget.id for budget in crossed}
    released = _set(session, and_(waiting, Job.held_by_budget.in_(over)), None, limit) if over else {}
    for budget in crossed:
        # A job under two crossed budgets is now held by the other one.
        for job_id in _set(session, _under(budget), budget.id, limit):
            released.pop(job_id, None)
    for job_id, model in released.items():
        outbox.add_hint(session, model, job_id)
    return len(released)


def _under(budget: Budget) -> ColumnElement[bool]:
    """The queued jobs in a budget's scope that no budget holds."""
    mine = and_(Job.tenant_id == budget.tenant_id, Job.state == State.QUEUED, Job.held_by_budget.is_(None))
    if budget.project is not None:
        mine = and_(mine, Job.project == budget.project)
    if budget.api_key_id is not None:
        mine = and_(mine, Job.api_key_id == budget.api_key_id)
    return mine


def _set(session: Session, jobs: ColumnElement[bool], holder: str | None, limit: int) -> dict[str, str]:
    """Changes the holder of some jobs; returns their ids with their models."""
    chosen = select(Job.id).where(jobs).order_by(Job.id).limit(limit).with_for_update(skip_locked=True).cte()
    statement = update(Job).where(Job.id == chosen.c.id).values(held_by_budget=holder, hinted_at=None)
    returned = statement.returning(Job.id, Job.model)
    rows = session.execute(returned, execution_options={"synchronize_session": False})
    return {row.id: row.model for row in rows}
