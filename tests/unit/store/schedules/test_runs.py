"""Runs of schedules: begun in time, once, and ended; what makes them fail."""

import threading
from datetime import UTC, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from store import schedules
from store.billing import budgets
from store.billing.budgets import Action, NewBudget, Period
from store.database import Database
from store.schedules import Template
from store.schedules import runs as schedule_steps
from store.tables.bulk import Bulk
from store.tables.job_states import State
from store.tables.schedules import ScheduleRun
from tests.support.budgets import bill
from tests.support.schedule_times import NOON
from tests.support.schedules import ASK, Schedules

MINUTELY = "* * * * *"


@pytest.fixture
def made(db: Database, tenant: str, document: str) -> Schedules:
    found = Schedules(db, tenant, document)
    found.register()
    return found


def test_a_run_begins_a_job_that_knows_its_schedule(made: Schedules) -> None:
    one = made.make(template=made.job(deadline_seconds=600))
    assert made.tick() == 0
    run = made.fire(one)
    [job] = made.jobs()
    assert (run.state, run.job_id, run.manual) == ("running", job.id, False)
    assert (job.tags, job.document_id, job.prompts) == ({"schedule_id": one}, made.document, ["Who?"])
    assert job.deadline_at is not None
    assert run.started_at is not None
    assert job.deadline_at - run.started_at == timedelta(seconds=600)
    following = made.get(one).next_at
    assert following is not None
    assert (following.astimezone(UTC).month, following > run.scheduled_for) == (1, True)
    assert made.tick() == 0
    made.end(run)
    [run] = made.runs(one)
    assert (run.state, run.reason) == ("succeeded", None)
    assert run.ended_at is not None


def test_a_run_begins_a_bulk_job_over_what_the_collection_holds_then(made: Schedules) -> None:
    collection = made.collection("papers")
    template = Template(
        "bulk",
        ASK,
        collection_id=collection,
        strategy="map_reduce",
        only_changed=True,
        digest=False,
        destination="s3://b",
    )
    one = made.make(template=template)
    run = made.fire(one)
    assert run.bulk_id is not None
    with made.database.session() as session:
        bulk = session.get_one(Bulk, run.bulk_id)
    labels = {"schedule_id": one, "collection_id": collection}
    assert (bulk.collection_id, bulk.collection_name, bulk.tags) == (collection, "papers", labels)
    assert (bulk.strategy, bulk.only_changed, bulk.digest, bulk.destination) == (
        "map_reduce",
        True,
        False,
        "s3://b",
    )
    assert bulk.ask["metadata"] == {}
    made.end_bulk(run, "failed")
    assert made.states(one) == ["failed"]
    assert made.get(one).failures == 1


def test_of_times_that_were_missed_the_newest_within_the_window_is_made_up_for(made: Schedules) -> None:
    one = made.make(cron="*/10 * * * *", catch_up_seconds=1800)
    runs = made.plan(one, NOON, NOON + timedelta(minutes=45))
    assert [run.state for run in runs] == [*["missed"] * 4, "waiting"]
    assert [run.scheduled_for for run in runs] == [NOON + timedelta(minutes=10 * n) for n in range(5)]
    assert "12:40 UTC replaces it" in (runs[0].reason or "")
    assert made.get(one).next_at == NOON + timedelta(minutes=50)


@pytest.mark.parametrize(("late", "state"), [(59, "waiting"), (61, "missed")])
def test_without_a_window_a_run_is_never_late(made: Schedules, late: int, state: str) -> None:
    one = made.make(cron="0 * * * *", catch_up_seconds=0)
    [run] = made.plan(one, NOON, NOON + timedelta(seconds=late))
    assert run.state == state


def test_after_a_long_standstill_the_times_missed_are_counted_and_the_last_recorded(made: Schedules) -> None:
    one = made.make(cron=MINUTELY)
    runs = made.plan(one, NOON, NOON + timedelta(days=1, seconds=30))
    assert len(runs) == schedule_steps.MISSED_ROWS + 1
    assert {run.state for run in runs[:-1]} == {"missed"}
    assert (runs[-1].state, runs[-1].scheduled_for) == ("waiting", NOON + timedelta(days=1))
    assert f"{24 * 60 - 100} earlier runs were missed too." in (runs[0].reason or "")


def test_a_run_with_jitter_begins_later_and_is_missed_if_nobody_was_there(made: Schedules) -> None:
    one = made.make(jitter_seconds=86_400, catch_up_seconds=0)
    run = made.fire(one)
    [(_, fires_at)] = [(run.scheduled_for, run.fires_at)]
    assert run.state == "waiting"
    assert timedelta() < fires_at - run.scheduled_for <= timedelta(days=1)
    with made.database.session() as session:
        session.execute(text("UPDATE schedule_runs SET fires_at = now() - interval '61 seconds'"))
    made.tick()
    assert made.states(one) == ["missed"]
    assert made.jobs() == []


def test_schedulers_at_once_make_one_run(made: Schedules) -> None:
    ids = [made.make() for _ in range(4)]
    for one in ids:
        made.come(one)
    together = threading.Barrier(4)

    def scheduler() -> None:
        own = Database(made.database.engine.url.render_as_string(hide_password=False))
        together.wait()
        for one in ids:
            with own.session() as session:
                schedule_steps.advance(session, made.settings, one)
        own.close()

    threads = [threading.Thread(target=scheduler) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made.tick()
    assert [made.states(one) for one in ids] == [["running"]] * 4
    assert len(made.jobs()) == 4


def test_a_time_is_planned_once_even_if_it_is_planned_again(made: Schedules) -> None:
    one = made.make(cron="0 * * * *")
    for _ in range(2):
        assert len(made.plan(one, NOON, NOON)) == 1
    values = {"schedule_id": one, "tenant_id": made.tenant, "scheduled_for": NOON, "fires_at": NOON}
    with pytest.raises(IntegrityError), made.database.session() as session:
        session.add(ScheduleRun(id="run_other", **values))


class Killed(BaseException):
    """What a scheduler dies of."""


@pytest.mark.parametrize("step", ["settle", "plan", "start", "_submit", "_start_run"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_scheduler_killed_at_any_step_loses_and_doubles_nothing(
    made: Schedules, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    one = made.make()
    made.come(one)
    real = getattr(schedule_steps, step)

    def dying(*arguments: object) -> None:
        if when == "after":
            real(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(schedule_steps, step, dying)
        with pytest.raises(Killed):
            made.tick()
    assert (made.runs(one), made.jobs()) == ([], [])
    made.tick()
    assert made.states(one) == ["running"]
    assert len(made.jobs()) == 1


def test_a_schedule_that_cannot_be_seen_to_does_not_keep_others_from_running(made: Schedules) -> None:
    broken, whole = made.make(), made.make()
    with made.database.session() as session:
        session.execute(text("UPDATE schedules SET template = '{}' WHERE id = :id"), {"id": broken})
    made.come(broken)
    assert made.fire(whole).state == "running"


def test_a_schedule_that_keeps_failing_is_paused_and_says_why(made: Schedules) -> None:
    one = made.make(max_failures=2)
    made.end(made.fire(one), State.FAILED, "out_of_memory")
    made.end(made.fire(one))
    assert made.get(one).failures == 0  # in a row
    made.end(made.fire(one), State.EXPIRED, "deadline_passed")
    assert made.events("schedule.paused") == []
    made.end(made.fire(one), State.FAILED, "out_of_memory")
    row = made.get(one)
    assert row.paused_at is not None
    assert row.next_at is None
    assert "2 runs in a row failed, the last one with out_of_memory: It broke." in (row.pause_reason or "")
    [event] = made.events("schedule.paused")
    assert (event["schedule"], event["failures"], event["reason"]) == (one, 2, row.pause_reason)
    with made.database.session() as session:
        row = schedules.resume(session, made.tenant, one)
        assert (row.failures, row.pause_reason, row.next_at is None) == (0, None, False)
    assert made.fire(one).state == "running"


def test_a_crossed_budget_fails_the_run_with_the_reason_and_is_told(made: Schedules) -> None:
    with made.database.session() as session:
        budgets.create(session, made.tenant, NewBudget(Decimal("1"), Action.REJECT, Period.MONTH))
        bill(session, made.tenant, "2", session.scalars(text("SELECT now()")).one(), project="default")
    one = made.make()
    run = made.fire(one)
    assert (run.state, run.reason_code) == ("failed", "budget_exceeded")
    assert "used up" in (run.reason or "")
    assert len(made.events("budget.crossed")) == 1
    assert made.jobs() == []


def test_a_run_waits_for_a_worker_as_long_as_it_may_be_late(made: Schedules) -> None:
    one = made.make(catch_up_seconds=0, max_failures=1)
    made.forget_workers()
    run = made.fire(one)
    assert (run.state, run.reason_code) == ("waiting", "no_worker")
    made.register()
    made.tick()
    assert made.states(one) == ["running"]
    made.end(made.runs(one)[0])
    made.forget_workers()
    made.fire(one)
    with made.database.session() as session:
        session.execute(text("UPDATE schedule_runs SET fires_at = now() - interval '61 seconds'"))
    made.tick()
    assert (made.states(one)[1], made.runs(one)[1].reason_code) == ("failed", "no_worker")
    assert made.get(one).paused_at is not None


def test_a_collection_that_is_gone_fails_the_run(made: Schedules) -> None:
    one = made.make(template=Template("bulk", ASK, collection_id=made.collection("papers")))
    with made.database.session() as session:
        session.execute(text("DELETE FROM collections"))
    run = made.fire(one)
    assert (run.state, run.reason_code, run.bulk_id) == ("failed", "not_found", None)
