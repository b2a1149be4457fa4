"""What happens when a run is due while the one before it still runs."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from store import schedules
from store.database import Database
from store.schedules import Overlap, Template
from store.tables.bulk import Bulk
from store.tables.job_states import State
from tests.support.schedule_times import NOON
from tests.support.schedules import ASK, Schedules


@pytest.fixture
def made(db: Database, tenant: str, document: str) -> Schedules:
    found = Schedules(db, tenant, document)
    found.register()
    return found


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


def test_runs_by_hand_begin_although_it_is_paused_and_heed_what_runs(made: Schedules) -> None:
    one = made.make()
    with made.database.session() as session:
        schedules.pause(session, made.tenant, one)
        schedules.run_now(session, made.tenant, one)
        schedules.run_now(session, made.tenant, one)
    made.tick()
    assert made.states(one) == ["running", "skipped"]
    assert all(run.manual for run in made.runs(one))
