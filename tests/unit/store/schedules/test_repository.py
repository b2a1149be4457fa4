"""Schedules as their owners see them: made, changed, previewed, removed."""

from dataclasses import replace
from datetime import UTC
from decimal import Decimal

import pytest
from sqlalchemy import insert

from store import jobs, schedules
from store.database import Database
from store.errors import NotFound, Refused
from store.schedules import Overlap, ScheduleExists, Template
from store.schedules.cron import CronInvalid
from store.tables.billing import Bill
from store.tables.job_states import State
from store.tenants import ensure
from store.timezones import UnknownZone
from tests.support.schedule_times import NOON
from tests.support.schedules import ASK, Schedules


@pytest.fixture
def made(db: Database, tenant: str, document: str) -> Schedules:
    found = Schedules(db, tenant, document)
    found.register()
    return found


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
