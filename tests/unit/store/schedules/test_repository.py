"""Schedules: what the scheduler makes of their times, and what becomes of the runs."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError

from store import jobs, schedules
from store.billing import budgets
from store.billing.budgets import Action, NewBudget, Period
from store.database import Database
from store.errors import NotFound, Refused
from store.schedules import Overlap, ScheduleExists, Template
from store.schedules import runs as schedule_steps
from store.schedules.cron import CronInvalid
from store.tables.billing import Bill
from store.tables.bulk import Bulk
from store.tables.job_states import State
from store.tables.schedules import ScheduleRun
from store.tenants import ensure
from store.timezones import UnknownZone
from tests.support.schedules import ASK, Schedules
from tests.unit.store.billing.test_budgets import bill

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTELY = "* * * * *"


@pytest.fixture
def made(db: Database, tenant: str, document: str) -> Schedules:
    found = Schedules(db, tenant, document)
    found.register()
    return found


# Making ---------------------------------------------------------------------------------------------


def test_a_schedule_is_checked_when_it_is_made(made: Schedules) -> None:
    one = made.make(name="nightly", timezone="Europe/Berlin")
    assert made.get(one).next_at.astimezone(UTC).hour == 23  # type: ignore[union-attr]
    for changes, error in (
        ({"name": "nightly"}, ScheduleExists),
        ({"cron": "* * * *"}, CronInvalid),
        ({"cron": "0 0 30 2 *"}, CronInvalid),
        ({"timezone": "Mars/Olympus"}, UnknownZone),
        ({"template": Template("job", ASK, document_id="doc_none")}, NotFound),
        ({"template": Template("bulk", ASK, collection_id="nothing")}, NotFound),
        ({"template": Template("job", replace(ASK, model="huge"), document_id=made.document)}, Refused),
    ):
        with pytest.raises(error):
            made.make(**changes)
    with made.database.session() as session:
        assert len(schedules.list_schedules(session, made.tenant)) == 1
        schedules.remove(session, made.tenant, one)
    made.make(name="nightly")


def test_a_schedule_can_be_made_while_no_worker_is_alive(made: Schedules) -> None:
    made.forget_workers()
    assert made.get(made.make()).next_at is not None


def test_schedules_of_another_tenant_are_not_there(made: Schedules) -> None:
    one = made.make(name="mine")
    other = Schedules(made.database, "ten_other", made.document)
    with made.database.session() as session:
        ensure(session, "ten_other", "other")
    with made.database.session() as session:
        run = schedules.run_now(session, made.tenant, one)
        assert schedules.list_schedules(session, "ten_other") == []
    for call in (
        schedules.get,
        schedules.pause,
        schedules.resume,
        schedules.run_now,
        schedules.remove,
        schedules.history,
    ):
        with pytest.raises(NotFound), made.database.session() as session:
            call(session, "ten_other", one)
    with pytest.raises(NotFound), made.database.session() as session:
        schedules.change(session, made.settings, other.owner, one, made.new())
    with pytest.raises(NotFound):
        other.make(name="mine")  # the document is not theirs either
    with made.database.session() as session:
        assert [one.id for one in schedules.history(session, made.tenant, one)] == [run.id]


def test_a_schedule_goes_by_its_name_too(made: Schedules) -> None:
    one = made.make(name="sch_like an id")
    with made.database.session() as session:
        assert schedules.get(session, made.tenant, "sch_like an id").id == one
        run = schedules.run_now(session, made.tenant, "sch_like an id")
        assert [found.id for found in schedules.history(session, made.tenant, "sch_like an id")] == [run.id]
    with pytest.raises(NotFound, match=r"There is no schedule other\.$"), made.database.session() as session:
        schedules.pause(session, made.tenant, "other")


# Times ----------------------------------------------------------------------------------------------


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


def test_the_preview_says_what_the_scheduler_does(made: Schedules) -> None:
    one = made.make(cron="0 * * * *", jitter_seconds=600)
    row = made.get(one)
    with made.database.session() as session:
        shown = schedules.preview(session, row, 3)
    assert len(shown) == 3
    first, fires_at = shown[0]
    assert row.next_at is not None
    [run] = made.plan(one, first, first)
    assert (run.scheduled_for, run.fires_at) == (first, fires_at)


# Many schedulers, and killed ones -------------------------------------------------------------------


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


# Overlap --------------------------------------------------------------------------------------------


def test_skip_leaves_out_a_run_while_another_runs(made: Schedules) -> None:
    one = made.make(overlap=Overlap.SKIP)
    first = made.fire(one)
    second = made.fire(one)
    assert (second.state, second.reason_code) == ("skipped", "overlap")
    assert first.id in (second.reason or "")
    made.end(first)
    assert made.fire(one).state == "running"
    assert made.get(one).failures == 0


def test_queue_lets_the_newest_wait(made: Schedules) -> None:
    one = made.make(overlap=Overlap.QUEUE, catch_up_seconds=0)
    first = made.fire(one)
    second = made.fire(one)
    assert (second.state, second.reason_code) == ("waiting", "overlap")
    third = made.fire(one)
    assert made.states(one) == ["running", "skipped", "waiting"]
    assert made.runs(one)[1].reason_code == "replaced"
    with made.database.session() as session:  # it has waited for a long time, which is not being late
        session.execute(
            text("UPDATE schedule_runs SET fires_at = now() - interval '1 day' WHERE state = 'waiting'")
        )
    made.tick()
    assert made.states(one) == ["running", "skipped", "waiting"]
    made.end(first)
    assert made.states(one) == ["succeeded", "skipped", "running"]
    assert made.runs(one)[2].reason is None
    made.end(made.runs(one)[2])
    assert [job.id for job in made.jobs()] == [first.job_id, made.runs(one)[2].job_id]
    assert third.id == made.runs(one)[2].id


def test_cancel_previous_cancels_a_job_and_begins_when_it_has_ended(made: Schedules) -> None:
    one = made.make(overlap=Overlap.CANCEL_PREVIOUS)
    first = made.fire(one)
    with made.database.session() as session:
        session.execute(text("UPDATE jobs SET state = 'running'"))
    second = made.fire(one)
    assert (second.state, second.reason_code) == ("waiting", "overlap")
    assert made.jobs()[0].state == State.CANCELLING
    made.end(first, State.CANCELLED, "cancelled")
    assert made.states(one) == ["cancelled", "running"]
    made.fire(one)  # the job before still waits for a worker, so it is cancelled at once
    made.tick()
    assert made.states(one) == ["cancelled", "cancelled", "running"]
    assert made.get(one).failures == 0


def test_cancel_previous_cancels_a_bulk_job(made: Schedules) -> None:
    template = Template("bulk", ASK, collection_id=made.collection("papers"))
    one = made.make(overlap=Overlap.CANCEL_PREVIOUS, template=template)
    first = made.fire(one)
    made.fire(one)
    with made.database.session() as session:
        assert session.get_one(Bulk, first.bulk_id).state == "cancelling"
    made.end_bulk(first, "cancelled")
    assert made.states(one) == ["cancelled", "running"]


def test_runs_take_turns_in_the_order_in_which_they_begin(made: Schedules) -> None:
    one = made.make(overlap=Overlap.QUEUE)
    made.plan(one, NOON, NOON)
    made.plan(one, NOON + timedelta(days=1), NOON + timedelta(days=1))
    begins = (
        "UPDATE schedule_runs SET fires_at = now() - make_interval(secs => :ago) WHERE scheduled_for = :at"
    )
    with made.database.session() as session:  # as with a jitter of more than a day
        for ago, at in ((1, NOON), (2, NOON + timedelta(days=1))):
            session.execute(text(begins), {"ago": ago, "at": at})
    made.tick()
    assert made.states(one) == ["waiting", "running"]


# Refusals and failures ------------------------------------------------------------------------------


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


# By hand --------------------------------------------------------------------------------------------


def test_runs_by_hand_begin_although_it_is_paused_and_heed_what_runs(made: Schedules) -> None:
    one = made.make()
    with made.database.session() as session:
        schedules.pause(session, made.tenant, one)
        schedules.run_now(session, made.tenant, one)
        schedules.run_now(session, made.tenant, one)
    made.tick()
    assert made.states(one) == ["running", "skipped"]
    assert all(run.manual for run in made.runs(one))


def test_a_paused_or_deleted_schedule_begins_nothing_and_its_runs_are_still_ended(made: Schedules) -> None:
    paused, deleted = (made.make(overlap=Overlap.QUEUE) for _ in range(2))
    for one in (paused, deleted):
        made.fire(one)
        made.fire(one)
    with made.database.session() as session:
        schedules.pause(session, made.tenant, paused)
        schedules.remove(session, made.tenant, deleted)
    for one, code in ((paused, "paused"), (deleted, "deleted")):
        assert made.states(one) == ["running", "skipped"]
        assert made.runs(one)[1].reason_code == code
        assert made.get(one).next_at is None
        made.end(made.runs(one)[0], State.FAILED, "out_of_memory")
        assert made.states(one) == ["failed", "skipped"]
    with pytest.raises(NotFound), made.database.session() as session:
        schedules.get(session, made.tenant, deleted)


def test_a_change_keeps_a_time_that_has_come_and_counts_failures_anew(made: Schedules) -> None:
    one = made.make(name="a")
    made.end(made.fire(one), State.FAILED, "out_of_memory")
    made.come(one)
    with made.database.session() as session:
        row = schedules.change(session, made.settings, made.owner, one, made.new(name="b"))
        assert (row.name, row.failures, row.next_at <= row.updated_at) == ("b", 0, True)
        row = schedules.change(session, made.settings, made.owner, one, made.new(name="b", cron="0 6 * * *"))
        assert row.next_at > row.updated_at
        schedules.pause(session, made.tenant, one)
        row = schedules.change(session, made.settings, made.owner, one, made.new(name="b"))
        assert (row.next_at, row.paused_at is None) == (None, False)
    made.make(name="c")
    with pytest.raises(ScheduleExists), made.database.session() as session:
        schedules.change(session, made.settings, made.owner, one, made.new(name="c"))


def test_a_run_costs_what_its_jobs_cost_a_currency(made: Schedules) -> None:
    template = Template("bulk", ASK, collection_id=made.collection("papers"))
    single, many = made.make(), made.make(template=template)
    runs = [made.fire(single), made.fire(many)]
    [job] = made.jobs()
    parts = []
    with made.database.session() as session:
        for _ in range(2):
            new = jobs.NewJob(made.document, "ask", ["?"], "small", "window", bulk_id=runs[1].bulk_id)
            parts.append(jobs.create(session, made.tenant, new).id)
        terms = {"tenant_id": made.tenant, "booked_at": NOON, "price_book_id": "prc_placeholder"}
        terms |= {"outcome": "succeeded", "jobs": 1, "attempts": 1}
        for job_id, attempt, cost, currency in (
            (job.id, 1, "1.25", "USD"),
            (job.id, 2, "2", "EUR"),
            (job.id, 3, None, "USD"),
            (parts[0], 1, "4", "USD"),
            (parts[1], 1, "8", "USD"),
            ("job_other", 1, "16", "USD"),
        ):
            own = {"job_id": job_id, "attempt": attempt, "cost": cost, "currency": currency}
            session.execute(insert(Bill).values(**terms, **own))
        found = schedules.costs(session, made.tenant, runs)
        assert schedules.costs(session, "ten_other", runs) == {runs[0].id: {}, runs[1].id: {}}
    assert found == {
        runs[0].id: {"USD": Decimal("1.25"), "EUR": Decimal(2)},
        runs[1].id: {"USD": Decimal(12)},
    }
