"""What is spent of a budget: whose bills, in which period, with what runs; a crossing is told once."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from store import outbox, tenants, timezones
from store.billing import budgets
from store.billing.budgets import Action, Period
from store.billing.time_buckets import Width, around
from store.database import Database
from store.errors import NotFound
from store.jobs import leases
from store.tables.job_states import State
from store.tables.jobs import Job
from store.tables.outbox import OutboxRow
from store.tenants import api_keys
from tests.support.budgets import NOON, bill, events, new_budget
from tests.support.claimed_jobs import Submit, take, token_of


def test_a_budget_counts_the_bills_of_its_scope_and_currency(db: Database, tenant: str) -> None:
    with db.session() as session:
        other = tenants.ensure(session, "ten_other", "other")
        key, _ = api_keys.create(session, tenant, "one", b"pepper")
        everything = new_budget(session, tenant)
        project = new_budget(session, tenant, project="reports")
        of_key = new_budget(session, tenant, api_key_id=key.id)
        bill(session, tenant, "1", project="reports", api_key_id=key.id)
        bill(session, tenant, "2", project="reports", api_key_id="key_two")
        bill(session, tenant, "4", project="default", api_key_id=key.id)
        bill(session, tenant, "8", project=None, outcome="stored")
        bill(session, tenant, None, project="reports", api_key_id=key.id)  # no price
        bill(session, tenant, "16", project="reports", api_key_id=key.id, currency="EUR")
        bill(session, other, "32", project="reports", api_key_id=key.id)
    with db.session() as session:
        spent = [budgets.state(session, one, NOON).spent for one in (everything, project, of_key)]
    assert spent == [Decimal(15), Decimal(3), Decimal(5)]


def test_a_budget_is_crossed_from_its_amount_on(db: Database, tenant: str) -> None:
    with db.session() as session:
        budget = new_budget(session, tenant, "10")
        bill(session, tenant, "9.9999999999")
        before = budgets.state(session, budget, NOON)
        bill(session, tenant, "0.0000000001")
        at = budgets.state(session, budget, NOON)
        bill(session, tenant, "5")
        after = budgets.state(session, budget, NOON)
    assert (before.crossed, before.remaining) == (False, Decimal("0.0000000001"))
    assert (at.crossed, at.remaining) == (True, 0)
    assert (after.spent, after.remaining) == (Decimal(15), 0)


BERLIN = [  # period, a moment in it, its first moment, the first one after it, all in UTC
    (Period.DAY, "2027-03-28T10:00", "2027-03-27T23:00", "2027-03-28T22:00"),  # clocks go forward: 23 hours
    (Period.DAY, "2027-10-31T00:30", "2027-10-30T22:00", "2027-10-31T23:00"),  # and back: 25 hours
    (Period.WEEK, "2027-03-28T21:59", "2027-03-21T23:00", "2027-03-28T22:00"),
    (Period.WEEK, "2027-03-28T22:00", "2027-03-28T22:00", "2027-04-04T22:00"),
    (Period.MONTH, "2027-03-05T10:00", "2027-02-28T23:00", "2027-03-31T22:00"),
    (Period.MONTH, "2026-12-31T23:30", "2026-12-31T23:00", "2027-01-31T23:00"),
]


@pytest.mark.parametrize(("period", "moment", "first", "after"), BERLIN)
def test_a_period_is_that_of_the_zones_calendar(
    db: Database, tenant: str, period: Period, moment: str, first: str, after: str
) -> None:
    now, start, end = (datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (moment, first, after))
    instant = timedelta(microseconds=1)
    with db.session() as session:
        budget = new_budget(session, tenant, period=period, timezone="Europe/Berlin")
        bill(session, tenant, "1", start - instant)
        bill(session, tenant, "2", start)
        bill(session, tenant, "4", end - instant)
        bill(session, tenant, "8", end)
        found = budgets.state(session, budget, now)
    assert (found.start, found.end, found.spent) == (start, end, Decimal(6))


@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo", "America/St_Johns", "Pacific/Apia"])
@pytest.mark.parametrize("width", [Width.DAY, Width.WEEK, Width.MONTH])
def test_periods_follow_each_other_without_gap_or_overlap(zone: str, width: Width) -> None:
    """Zones whose clocks were changed at midnight, or went over the date line."""
    moment, step, last = datetime(2010, 10, 1, tzinfo=UTC), timedelta(minutes=47), None
    while moment < datetime(2012, 1, 10, tzinfo=UTC):
        start, end = around(moment, width, ZoneInfo(zone))
        assert start <= moment < end
        assert last is None or (start, end) == last or start == last[1]
        last = (start, end)
        moment += step


def report(session: Session, job: Job, seconds: float) -> None:
    figures: dict[str, Any] = {"phase": "reading", "tokens_done": 1, "tokens_total": 9}
    usage = {"seconds": {"read": seconds, "score": 2.0}}
    leases.progress(session, job.id, token_of(job), tokens_per_second=None, usage=usage, **figures)


def test_running_attempts_count_with_their_last_report_and_then_with_their_bill(
    db: Database, tenant: str, submit: Submit
) -> None:
    with db.session() as session:
        budget = new_budget(session, tenant, project="reports")
        elsewhere = new_budget(session, tenant, project="others")
        euros = new_budget(session, tenant)
        session.execute(text("UPDATE budgets SET currency = 'EUR' WHERE project IS NULL"))
        session.refresh(euros)
    submit(project="reports")
    [job] = take(db)
    spent = []
    for seconds in (8, 18):  # with 2 of scoring, at 0.36 an hour
        with db.session() as session:
            report(session, job, seconds)
            spent.append(budgets.state(session, budget).spent)
            assert budgets.state(session, elsewhere).spent == 0
            assert budgets.state(session, euros).spent == 0
    with db.session() as session:
        usage = {"seconds": {"read": 18.0, "score": 2.0}}
        leases.release(session, job.id, token_of(job), usage=usage, lost=False)
        spent.append(budgets.state(session, budget).spent)
    assert spent == [Decimal("0.001"), Decimal("0.002"), Decimal("0.002")]


def test_two_sessions_at_once_tell_once_and_again_in_the_next_period(db: Database, tenant: str) -> None:
    with db.session() as session:
        budget = new_budget(session, tenant, "1", project="reports")
        [now] = session.scalars(text("SELECT now()"))
        bill(session, tenant, "2.50", now, project="reports")
    scope = (tenant, "reports", None)
    with db.session() as one, db.session() as two:
        two.execute(text("SET LOCAL lock_timeout = '10s'"))
        assert [found.budget.id for found in budgets.crossed(one, *scope)] == [budget.id]
        assert [found.budget.id for found in budgets.crossed(two, *scope)] == [budget.id]
    with db.session() as session:
        budgets.crossed(session, *scope)
        found = budgets.state(session, budget)
    period = {"name": "month", "timezone": "UTC"}
    period |= {"start": found.start.isoformat(), "end": found.end.isoformat()}
    [told] = events(db)
    assert told == {
        "type": "budget.crossed",
        "budget": budget.id,
        "action": "notify",
        "scope": {"project": "reports", "api_key_id": None},
        "amount": "1",
        "spent": "2.5",
        "currency": "USD",
        "period": period,
    }
    with db.session() as session:
        session.execute(text("UPDATE budgets SET crossed_at = crossed_at - interval '28 days'"))
    with db.session() as session:
        budgets.crossed(session, *scope)
    assert len(events(db)) == 2


def test_one_that_noticed_and_rolled_back_leaves_the_telling_to_the_next(db: Database, tenant: str) -> None:
    with db.session() as session:
        new_budget(session, tenant, "1")
        [now] = session.scalars(text("SELECT now()"))
        bill(session, tenant, "2", now)
    with db.session() as session:
        budgets.crossed(session, tenant, "default", None)
        session.rollback()
    assert events(db) == []
    with db.session() as session:
        budgets.crossed(session, tenant, "default", None)
    assert len(events(db)) == 1


def test_only_budgets_over_a_job_stop_it_and_rejecting_goes_first(db: Database, tenant: str) -> None:
    with db.session() as session:
        key, _ = api_keys.create(session, tenant, "one", b"pepper")
        new_budget(session, tenant, "1", action=Action.NOTIFY)
        queue = new_budget(session, tenant, "1", action=Action.QUEUE, project="reports")
        reject = new_budget(session, tenant, "1", action=Action.REJECT, api_key_id=key.id)
        [now] = session.scalars(text("SELECT now()"))
        bill(session, tenant, "2", now, project="reports", api_key_id=key.id)

        def stopper(project: str, key_id: str | None) -> str | None:
            found = budgets.blocking_budget(session, tenant, project, key_id)
            return found.budget.id if found else None

        assert stopper("reports", key.id) == reject.id
        assert stopper("reports", "key_two") == queue.id
        assert stopper("default", key.id) == reject.id
        assert stopper("default", None) is None


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_the_end_of_a_job_tells_what_it_crossed(
    db: Database, tenant: str, submit: Submit, state: State
) -> None:
    with db.session() as session:
        new_budget(session, tenant, "0.001")
    submit()
    [job] = take(db)
    with db.session() as session:
        leases.finalize(session, job.id, token_of(job))
        leases.finish(session, job.id, token_of(job), state, usage={"seconds": {"read": 10.0}})
    assert [told["spent"] for told in events(db)] == ["0.001"]


REFUSED: list[tuple[dict[str, Any], type[Exception]]] = [
    ({}, budgets.BudgetExists),
    ({"project": "reports"}, budgets.BudgetExists),
    ({"amount": Decimal(5), "timezone": "Europe/Berlin"}, budgets.BudgetExists),
    ({"period": Period.DAY, "timezone": "Europe/Nowhere"}, timezones.UnknownZone),
    ({"period": Period.DAY, "timezone": "../../etc/passwd"}, timezones.UnknownZone),
    ({"period": Period.DAY, "currency": "XTS"}, budgets.UnknownCurrency),
    ({"period": Period.DAY, "api_key_id": "key_of_nobody"}, NotFound),
]


@pytest.mark.parametrize(("changes", "error"), REFUSED)
def test_what_cannot_be_a_budget_is_refused(
    db: Database, tenant: str, changes: dict[str, Any], error: type[Exception]
) -> None:
    with db.session() as session:
        new_budget(session, tenant)
        new_budget(session, tenant, project="reports")
    with pytest.raises(error), db.session() as session:
        new_budget(session, tenant, **changes)
    with db.session() as session:
        assert len(budgets.list_budgets(session, tenant)) == 2


def test_budgets_differ_by_scope_period_and_action_and_are_their_tenants(db: Database, tenant: str) -> None:
    with db.session() as session:
        other = tenants.ensure(session, "ten_other", "other")
        key, _ = api_keys.create(session, tenant, "one", b"pepper")
        made = [
            new_budget(session, tenant),
            new_budget(session, tenant, project="reports"),
            new_budget(session, tenant, api_key_id=key.id),
            new_budget(session, tenant, period=Period.DAY),
            new_budget(session, tenant, action=Action.REJECT),
        ]
        theirs = new_budget(session, other)
        assert {one.id for one in budgets.list_budgets(session, tenant)} == {one.id for one in made}
        assert made[0].currency == "USD"
        for refused in (budgets.get, budgets.remove):
            with pytest.raises(NotFound):
                refused(session, tenant, theirs.id)
        with pytest.raises(NotFound):
            new_budget(session, other, api_key_id=key.id)
        budgets.remove(session, tenant, made[0].id)
        assert len(budgets.list_budgets(session, tenant)) == 4


def test_an_event_may_be_of_no_job(db: Database, tenant: str) -> None:
    with db.session() as session:
        outbox.add_event(session, tenant, None, "budget.crossed", {})
        assert session.scalars(select(OutboxRow.job_id)).one() is None


def test_the_sentence_says_what_is_spent_of_what_and_until_when(db: Database, tenant: str) -> None:
    with db.session() as session:
        budget = new_budget(session, tenant, "12.50", project="reports")
        bill(session, tenant, "20", project="reports")
        said = str(budgets.state(session, budget, NOON))
    assert said == (
        f"The budget {budget.id} (12.5 USD per month for the project 'reports') is used up: 20 USD spent. "
        "The month ends at 2027-04-01 00:00 UTC."
    )
