"""Budgets: what a tenant, a project or an API key may spend in a period, and what happens once it is spent.

Spent is the sum of the bills booked in the period, plus the cost of running attempts as last reported. Device
time without a price does not count, nor do bills in another currency.
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
    """A calendar period in a time zone; weeks start on Monday."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


ADJECTIVES = {Period.DAY: "daily", Period.WEEK: "weekly", Period.MONTH: "monthly"}


class Action(StrEnum):
    """What happens once a budget is crossed; each action also sends an event, once per period."""

    NOTIFY = "notify"
    QUEUE = "queue"  # jobs wait until the budget is no longer crossed
    REJECT = "reject"  # jobs are refused, and running ones fail at their next snapshot


class BudgetExists(Conflict):
    """The tenant has a budget with the same scope, period and action."""

    code = "budget_exists"


class UnknownCurrency(Invalid):
    """No price book uses this currency, so such a budget could never be crossed."""

    code = "unknown_currency"
    field = "currency"


@dataclass(frozen=True)
class NewBudget:
    """A request for a budget; at most one of `project` and `api_key_id`, or neither for the whole tenant."""

    amount: Decimal
    action: Action
    period: Period
    project: str | None = None
    api_key_id: str | None = None
    timezone: str = "UTC"
    currency: str | None = None  # None = the currency of the price book in effect


@dataclass(frozen=True)
class BudgetState:
    """What is spent of a budget in the period [start, end)."""

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
        scope = f"the project '{one.project}'" if one.project else one.api_key_id or "the tenant"
        allowed, spent = f"{plain(one.amount)} {one.currency}", f"{plain(self.spent)} {one.currency}"
        return (
            f"The budget {one.id} ({allowed} per {one.period} for {scope}) is used up: {spent} spent. "
            f"The {one.period} ends at {self.end:%Y-%m-%d %H:%M} UTC."
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
        raise BudgetExists(
            f"A {ADJECTIVES[new.period]} budget with the action '{new.action}' already exists."
        )
    return row


def _currency(session: Session, asked: str | None) -> str:
    if asked is None:
        effective = prices.in_effect(func.now())
        return session.scalars(select(PriceBookRow.currency).where(PriceBookRow.id == effective)).one()
    known = sorted(session.scalars(select(PriceBookRow.currency).distinct()))
    if asked not in known:
        raise UnknownCurrency(
            f"No price book uses the currency {asked}; known currencies: {', '.join(known)}."
        )
    return asked


def list_budgets(session: Session, tenant_id: str) -> list[Budget]:
    """The tenant's budgets, the newest first."""
    return list(session.scalars(scoped(Budget, tenant_id).order_by(Budget.id.desc())))


def get(session: Session, tenant_id: str, budget_id: str) -> Budget:
    """Raises NotFound."""
    return get_scoped(session, Budget, tenant_id, id=budget_id)


def remove(session: Session, tenant_id: str, budget_id: str) -> None:
    """Deletes a budget; the reaper releases the jobs it held. Raises NotFound."""
    session.execute(delete(Budget).where(Budget.id == get(session, tenant_id, budget_id).id))


def state(session: Session, budget: Budget, at: datetime | None = None) -> BudgetState:
    """What is spent in the period that contains a moment; by default the database's present time."""
    moment: datetime = at or session.scalars(select(func.now())).one()
    start, end = around(moment, Width(budget.period), ZoneInfo(budget.timezone))
    # In this order an attempt that ends in between is counted twice for a moment, rather than not at all.
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
    """The cost so far of running attempts, which will probably be booked in this period."""
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
    """The crossed budgets that a job with this project and key counts towards.

    Writes the event `budget.crossed` for each whose crossing was not yet reported in its period.
    """
    query = scoped(Budget, tenant_id).where(
        or_(Budget.project.is_(None), Budget.project == project),
        or_(Budget.api_key_id.is_(None), Budget.api_key_id == api_key_id),
    )
    states = [state(session, budget) for budget in session.scalars(query.order_by(Budget.id)).all()]
    found = [one for one in states if one.crossed]
    for one in found:
        _report(session, one)
    return found


def blocking_budget(
    session: Session, tenant_id: str, project: str | None, api_key_id: str | None
) -> BudgetState | None:
    """The crossed budget that stops such a job, if any; one that rejects before one that only queues.

    Writes events like `crossed`.
    """
    found = crossed(session, tenant_id, project, api_key_id)
    for action in (Action.REJECT, Action.QUEUE):
        for one in found:
            if one.budget.action == action:
                return one
    return None


def _report(session: Session, found: BudgetState) -> None:
    """Writes the event, once per budget and period: of concurrent transactions, only one gets the row.

    The others do not wait for it and, once it has committed, find nothing to change.
    """
    budget = found.budget
    unreported = or_(Budget.crossed_at.is_(None), Budget.crossed_at < found.start)
    mine = (
        scoped(Budget, budget.tenant_id)
        .with_only_columns(Budget.id)
        .where(Budget.id == budget.id, unreported)
    )
    chosen = mine.with_for_update(skip_locked=True).cte("chosen")
    statement = update(Budget).where(Budget.id == chosen.c.id).values(crossed_at=found.start)
    reported = session.scalars(
        statement.returning(Budget.id), execution_options={"synchronize_session": False}
    ).one_or_none()
    if reported is not None:
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
