"""Budgets: what a tenant, a project or an API key may spend in a period, and what is done when it is spent.

Spent is what the bills booked in the period come to, and what running attempts have cost as of their last
report. Time on devices without a price counts nothing, and so does what is billed in another currency.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import outbox
from store.billing import ledger, prices
from store.billing.time_buckets import Width, around
from store.errors import Conflict, Invalid
from store.ids import new_id
from store.tables.billing import Bill, Budget, PriceBookRow
from store.tables.job_states import LEASED
from store.tables.jobs import Attempt, Job
from store.tables.tenants import ApiKey
from store.tenancy import get_scoped, scoped
from store.timezones import refuse_unknown_zone


class Period(StrEnum):
    """A period of a zone's calendar; weeks begin on Monday."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Action(StrEnum):
    """What is done once a budget is crossed; each of them also tells the tenant, once a period."""

    NOTIFY = "notify"
    QUEUE = "queue"  # jobs wait until it is no longer crossed
    REJECT = "reject"  # jobs are refused, and running ones fail at their next snapshot


class BudgetExists(Conflict):
    """The tenant has a budget of the same project or key, period and action."""

    code = "budget_exists"


class UnknownCurrency(Invalid):
    """No price book is in this currency, so such a budget could never be crossed."""

    code = "unknown_currency"
    field = "currency"


@dataclass(frozen=True)
class NewBudget:
    """What a tenant asks for; at most one of `project` and `api_key_id`, neither for all of the tenant's."""

    amount: Decimal
    action: Action
    period: Period
    project: str | None = None
    api_key_id: str | None = None
    timezone: str = "UTC"
    currency: str | None = None  # None = that of the price book in effect


@dataclass(frozen=True)
class BudgetState:
    """Where a budget stands in the period [start, end)."""

    budget: Budget
    spent: Decimal
    start: datetime
    end: datetime

    @property
    def remaining(self) -> Decimal:
        return max(self.budget.amount - self.spent, Decimal(0))

    @property
    def crossed(self) -> bool:
        return self.spent >= self.budget.amount

    def __str__(self) -> str:
        one = self.budget
        scope = f"the project '{one.project}'" if one.project else one.api_key_id or "everything"
        allowed, spent = f"{plain(one.amount)} {one.currency}", f"{plain(self.spent)} {one.currency}"
        return (
            f"The budget {one.id} ({allowed} a {one.period} for {scope}) is used up: {spent} are spent, "
            f"and the {one.period} ends at {self.end:%Y-%m-%d %H:%M} UTC."
        )


def plain(amount: Decimal) -> str:
    """A number without trailing zeros and without an exponent."""
    return f"{amount.normalize():f}"


def create(session: Session, tenant_id: str, new: NewBudget) -> Budget:
    """Raises BudgetExists, UnknownCurrency, UnknownZone, and NotFound for a key that is not the tenant's."""
    refuse_unknown_zone(new.timezone)
    if new.api_key_id is not None:
        get_scoped(session, ApiKey, tenant_id, id=new.api_key_id)
    values = {**asdict(new), "id": new_id("bud"), "tenant_id": tenant_id}
    values["currency"] = _currency(session, new.currency)
    statement = insert(Budget).values(**values).on_conflict_do_nothing().returning(Budget)
    row = session.scalars(statement).one_or_none()
    if row is None:
        raise BudgetExists(f"There is such a budget by the {new.period} that does '{new.action}' already.")
    return row


def _currency(session: Session, asked: str | None) -> str:
    if asked is None:
        effective = prices.in_effect(func.now())
        return session.scalars(select(PriceBookRow.currency).where(PriceBookRow.id == effective)).one()
    known = sorted(session.scalars(select(PriceBookRow.currency).distinct()))
    if asked not in known:
        raise UnknownCurrency(f"No price book is in {asked}; prices are in {', '.join(known)}.")
    return asked


def list_budgets(session: Session, tenant_id: str) -> list[Budget]:
    """The tenant's budgets, the newest first."""
    return list(session.scalars(scoped(Budget, tenant_id).order_by(Budget.id.desc())))


def get(session: Session, tenant_id: str, budget_id: str) -> Budget:
    """Raises NotFound."""
    return get_scoped(session, Budget, tenant_id, id=budget_id)


def remove(session: Session, tenant_id: str, budget_id: str) -> None:
    """Deletes a budget; the reaper lets go what it held. Raises NotFound."""
    session.execute(delete(Budget).where(Budget.id == get(session, tenant_id, budget_id).id))


def state(session: Session, budget: Budget, at: datetime | None = None) -> BudgetState:
    """What is spent in the period that holds a moment, the database's now if left out."""
    moment: datetime = at or session.scalars(select(func.now())).one()
    start, end = around(moment, Width(budget.period), ZoneInfo(budget.timezone))
    # In this order an attempt that ends in between counts twice for a moment, rather than not at all.
    running = _running(session, budget)
    return BudgetState(budget, running + _booked(session, budget, start, end), start, end)


def _booked(session: Session, budget: Budget, start: datetime, end: datetime) -> Decimal:
    query = scoped(Bill, budget.tenant_id).where(
        Bill.booked_at >= start, Bill.booked_at < end, Bill.currency == budget.currency
    )
    if budget.project is not None:
        query = query.where(Bill.project == budget.project)
    if budget.api_key_id is not None:
        query = query.where(Bill.api_key_id == budget.api_key_id)
    return session.scalars(query.with_only_columns(func.sum(Bill.cost))).one() or Decimal(0)


def _running(session: Session, budget: Budget) -> Decimal:
    """Of attempts that will be booked when they end: in this period, as far as anybody can tell now."""
    query = scoped(Attempt, budget.tenant_id).join(Job, Job.lease_token == Attempt.token)
    query = query.where(Job.state.in_(LEASED), Attempt.outcome == "running")
    if budget.project is not None:
        query = query.where(Job.project == budget.project)
    if budget.api_key_id is not None:
        query = query.where(Job.api_key_id == budget.api_key_id)
    spent = Decimal(0)
    for attempt in session.scalars(query):
        book = prices.get(session, attempt.price_book_id)
        if book.currency == budget.currency:
            spent += ledger.cost_so_far(attempt, book) or Decimal(0)
    return spent


def crossed(
    session: Session, tenant_id: str, project: str | None, api_key_id: str | None
) -> list[BudgetState]:
    """The crossed budgets that a job of this project and key counts towards.

    One that was not known to be crossed in its period becomes the event `budget.crossed`, which is written
    with the caller's transaction.
    """
    query = scoped(Budget, tenant_id).where(
        or_(Budget.project.is_(None), Budget.project == project),
        or_(Budget.api_key_id.is_(None), Budget.api_key_id == api_key_id),
    )
    states = [state(session, budget) for budget in session.scalars(query.order_by(Budget.id)).all()]
    found = [one for one in states if one.crossed]
    for one in found:
        _tell(session, one)
    return found


def stopping(
    session: Session, tenant_id: str, project: str | None, api_key_id: str | None
) -> BudgetState | None:
    """The crossed budget by which such a job may not go on; one that rejects before one that only queues.

    Tells of crossed ones as `crossed` does.
    """
    found = crossed(session, tenant_id, project, api_key_id)
    for action in (Action.REJECT, Action.QUEUE):
        for one in found:
            if one.budget.action == action:
                return one
    return None


def _tell(session: Session, found: BudgetState) -> None:
    """The event, once a budget and period: of several transactions that notice, one gets the row.

    The others neither wait for it nor, once it has committed, find anything to change.
    """
    budget = found.budget
    untold = or_(Budget.crossed_at.is_(None), Budget.crossed_at < found.start)
    mine = scoped(Budget, budget.tenant_id).with_only_columns(Budget.id).where(Budget.id == budget.id, untold)
    chosen = mine.with_for_update(skip_locked=True).cte("chosen")
    statement = update(Budget).where(Budget.id == chosen.c.id).values(crossed_at=found.start)
    told = session.scalars(
        statement.returning(Budget.id), execution_options={"synchronize_session": False}
    ).one_or_none()
    if told is not None:
        outbox.add_event(session, budget.tenant_id, None, "budget.crossed", _payload(found))


def _payload(found: BudgetState) -> dict[str, Any]:
    budget = found.budget
    return {
        "budget": budget.id,
        "action": budget.action,
        "scope": {"project": budget.project, "api_key_id": budget.api_key_id},
        "amount": plain(budget.amount),
        "spent": plain(found.spent),
        "currency": budget.currency,
        "period": {
            "name": budget.period,
            "timezone": budget.timezone,
            "start": found.start.isoformat(),
            "end": found.end.isoformat(),
        },
    }
