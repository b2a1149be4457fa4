"""Whatever happens to a schedule in whatever order: one run at a time, a job for each one that begins."""

import random

import pytest
from sqlalchemy import text

from store import schedules
from store.database import Database
from store.schedules import Overlap
from store.tables.job_states import TERMINAL, State
from store.tables.schedules import ScheduleRun
from tests.support.schedules import Schedules

STEPS = 80
THINGS = ["come", "come", "by hand", "end", "end", "pause", "resume", "no worker", "worker"]
ENDS = (
    (State.SUCCEEDED, None),
    (State.FAILED, "broke"),
    (State.EXPIRED, "late"),
    (State.CANCELLED, "cancelled"),
)


@pytest.mark.parametrize("overlap", list(Overlap))
@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_of_things(db: Database, tenant: str, document: str, overlap: Overlap, seed: int) -> None:
    draw = random.Random(seed)
    made = Schedules(db, tenant, document)
    made.register()
    one = made.make(overlap=overlap, max_failures=3)
    for _ in range(STEPS):
        act(made, one, draw.choice(THINGS), draw)
        made.tick()
        made.tick()  # a job that waited is cancelled at once, and seen to have ended at the next look
        check(made, one)


def act(made: Schedules, one: str, what: str, draw: random.Random) -> None:
    if what == "come" and made.get(one).paused_at is None:
        made.come(one)
    elif what == "end":
        for run in made.runs(one):
            if run.state == "running":
                made.end(run, *draw.choice(ENDS))
    elif what == "no worker":
        made.forget_workers()
    elif what == "worker":
        made.register()
    elif what in ("by hand", "pause", "resume"):
        do = {"by hand": schedules.run_now, "pause": schedules.pause, "resume": schedules.resume}[what]
        with made.database.session() as session:
            do(session, made.tenant, one)


def check(made: Schedules, one: str) -> None:
    runs, row = made.runs(one), made.get(one)
    state_of = {job.id: job.state for job in made.jobs()}
    begun = [run for run in runs if run.job_id is not None]
    assert sorted(str(run.job_id) for run in begun) == sorted(state_of)
    for run in runs:
        assert (run.ended_at is None) == (run.state in ("waiting", "running"))
        assert (run.state == "running") == (run.job_id is not None and state_of[run.job_id] not in TERMINAL)
        assert run.reason_code is not None or run.state in ("running", "succeeded")
    assert sum(run.state == "running" for run in runs) <= 1
    # One for the run before, and one that waits for a worker.
    assert sum(run.state == "waiting" for run in runs) <= 2
    assert (row.paused_at is None) == (row.next_at is not None)
    assert row.failures <= trailing_failures(runs)
    assert (
        len(made.events("schedule.paused")) <= sum(run.state == "failed" for run in runs) // row.max_failures
    )
    with made.database.session() as session:
        assert session.scalar(text("SELECT count(*) FROM schedule_runs WHERE state = 'missed'")) == 0


def trailing_failures(runs: list[ScheduleRun]) -> int:
    """Failures since the last success, in the order in which they ended."""
    count = 0
    for run in sorted((run for run in runs if run.ended_at), key=lambda run: str(run.ended_at)):
        count = 0 if run.state == "succeeded" else count + (run.state == "failed")
    return count
