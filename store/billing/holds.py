"""Jobs that wait because a `queue` budget is crossed: which do, and when they may go on.

A claim looks at one column of a job, `held_by_budget`. It is set when a job is submitted or given back under
a crossed budget; the reaper's sweep sets it for those that were waiting already, and clears it again.
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
    """Lets go what no crossed budget holds and holds what waits under one → how many jobs were let go.

    It passes over jobs that somebody else has locked: the next sweep gets them.
    """
    waiting = and_(Job.state == State.QUEUED, Job.held_by_budget.is_not(None))
    holding = set(session.scalars(select(Job.held_by_budget).where(waiting).distinct()))
    known = select(Budget).where(
        Budget.action == Action.QUEUE, or_(Budget.crossed_at.is_not(None), Budget.id.in_(holding))
    )
    rows = session.scalars(known.order_by(Budget.id)).all()
    crossed = [budget for budget in rows if budgets.state(session, budget).crossed]
    over = holding - {budget.id for budget in crossed}
    let_go = _set(session, and_(waiting, Job.held_by_budget.in_(over)), None, limit) if over else {}
    for budget in crossed:
        # A job that two budgets held is now held by the other one.
        for job_id in _set(session, _under(budget), budget.id, limit):
            let_go.pop(job_id, None)
    for job_id, model in let_go.items():
        outbox.add_hint(session, model, job_id)
    return len(let_go)


def _under(budget: Budget) -> ColumnElement[bool]:
    """The waiting jobs of a budget's scope that nothing holds."""
    mine = and_(Job.tenant_id == budget.tenant_id, Job.state == State.QUEUED, Job.held_by_budget.is_(None))
    if budget.project is not None:
        mine = and_(mine, Job.project == budget.project)
    if budget.api_key_id is not None:
        mine = and_(mine, Job.api_key_id == budget.api_key_id)
    return mine


def _set(session: Session, jobs: ColumnElement[bool], holder: str | None, limit: int) -> dict[str, str]:
    """Id and model of the jobs that were changed."""
    chosen = select(Job.id).where(jobs).order_by(Job.id).limit(limit).with_for_update(skip_locked=True).cte()
    statement = update(Job).where(Job.id == chosen.c.id).values(held_by_budget=holder, hinted_at=None)
    returned = statement.returning(Job.id, Job.model)
    rows = session.execute(returned, execution_options={"synchronize_session": False})
    return {row.id: row.model for row in rows}
