"""How the scheduler advances a schedule: it ends finished runs, plans due ones, and starts them.

All of it happens in one transaction, under the lock of the schedule's row and by the database's clock: after
a crash everything or nothing is done, and of several schedulers only one acts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import bulk as bulks
from store import documents, jobs, outbox
from store.billing import budgets
from store.bulk import NewBulk
from store.errors import NoWorker, StoreError
from store.ids import new_id
from store.jobs import admission
from store.jobs.admission import Owner
from store.schedules import cron
from store.schedules.repository import Overlap, RunState, Template, labelled, labels, stop
from store.settings import Settings
from store.tables.bulk import Bulk
from store.tables.collections import Collection
from store.tables.job_states import TERMINAL, State
from store.tables.jobs import Job
from store.tables.schedules import Schedule, ScheduleRun
from store.tenancy import get_scoped

ON_TIME = timedelta(seconds=60)  # a run is never late within this time, whatever its schedule says
OVERLAP = "overlap"  # the reason code of a run affected by one that was still running
MISSED_ROWS = 100  # missed times recorded one by one; of earlier ones only the number
_OUTCOMES = {
    State.SUCCEEDED: RunState.SUCCEEDED,
    State.FAILED: RunState.FAILED,
    State.EXPIRED: RunState.FAILED,
    State.CANCELLED: RunState.CANCELLED,
}


def due(session: Session) -> list[str]:
    """The ids of schedules that need attention now."""
    planned = select(Schedule.id).where(Schedule.next_at <= func.now())
    waiting = select(ScheduleRun.schedule_id).where(
        ScheduleRun.state == RunState.WAITING, ScheduleRun.fires_at <= func.now()
    )
    over = (
        select(ScheduleRun.schedule_id)
        .outerjoin(Job, Job.id == ScheduleRun.job_id)
        .outerjoin(Bulk, Bulk.id == ScheduleRun.bulk_id)
        .where(
            ScheduleRun.state == RunState.RUNNING, or_(Job.state.in_(TERMINAL), Bulk.state.in_(bulks.ENDED))
        )
    )
    return sorted(session.scalars(planned.union(waiting, over)))


def advance(session: Session, settings: Settings, schedule_id: str) -> bool:
    """Does everything due for a schedule; False if another scheduler has it locked."""
    query = select(Schedule).where(Schedule.id == schedule_id).with_for_update(skip_locked=True)
    schedule = session.scalars(query).one_or_none()
    if schedule is None:
        return False
    now = session.scalars(select(func.now())).one()
    settle(session, schedule, now)
    plan(session, schedule, now)
    start(session, settings, schedule, now)
    return True


# Ending ---------------------------------------------------------------------------------------------


def settle(session: Session, schedule: Schedule, now: datetime) -> None:
    """Ends the runs whose job or bulk job has ended, and pauses a schedule that keeps failing."""
    for run in _runs(session, schedule, RunState.RUNNING):
        begun: Job | Bulk
        if run.bulk_id is not None:
            begun = get_scoped(session, Bulk, run.tenant_id, id=run.bulk_id)
        else:
            begun = get_scoped(session, Job, run.tenant_id, id=run.job_id)
        if begun.state not in _OUTCOMES:
            continue
        _end(session, schedule, run, _OUTCOMES[State(begun.state)], begun.error_code, begun.error_message)
        # Runs that waited for it are not late: they are due now.
        waited = update(ScheduleRun).where(
            ScheduleRun.schedule_id == schedule.id,
            ScheduleRun.state == RunState.WAITING,
            ScheduleRun.reason_code == OVERLAP,
        )
        session.execute(waited.values(fires_at=now))


def _end(
    session: Session,
    schedule: Schedule,
    run: ScheduleRun,
    state: RunState,
    code: str | None = None,
    reason: str | None = None,
) -> None:
    run.state, run.reason_code, run.reason = state, code, reason
    run.ended_at = session.scalars(select(func.now())).one()
    session.flush()
    payload = {
        "schedule": schedule.id,
        "name": schedule.name,
        "run": run.id,
        "state": state.value,
        "scheduled_for": run.scheduled_for.isoformat(),
        "bulk": run.bulk_id,
        "error": code,
    }
    outbox.add_event(session, schedule.tenant_id, run.job_id, f"schedule_run.{state.value}", payload)
    if state is RunState.SUCCEEDED:
        schedule.failures = 0
    elif state is RunState.FAILED:
        schedule.failures += 1
        if schedule.failures >= schedule.max_failures and not (schedule.paused_at or schedule.deleted_at):
            _pause(session, schedule, run)


def _pause(session: Session, schedule: Schedule, run: ScheduleRun) -> None:
    schedule.paused_at = run.ended_at
    schedule.pause_reason = (
        f"{schedule.failures} runs in a row failed, the last one with {run.reason_code}: {run.reason} "
        "Fix the cause, then resume the schedule."
    )
    stop(session, schedule, "paused", "The schedule was paused because it kept failing.")
    payload = {
        "schedule": schedule.id,
        "name": schedule.name,
        "failures": schedule.failures,
        "reason": schedule.pause_reason,
        "run": run.id,
        "error": {"code": run.reason_code, "message": run.reason},
    }
    outbox.add_event(session, schedule.tenant_id, run.job_id, "schedule.paused", payload)


# Planning -------------------------------------------------------------------------------------------


def plan(session: Session, schedule: Schedule, now: datetime) -> None:
    """Plans a run for the latest due time, unless it is too long ago; records earlier ones as missed."""
    if schedule.next_at is None or schedule.next_at > now:
        return
    come, passed = deque([schedule.next_at], MISSED_ROWS + 1), 0
    for moment in takewhile(
        lambda one: one <= now, cron.times(schedule.cron, schedule.timezone, schedule.next_at)
    ):
        passed += len(come) == come.maxlen
        come.append(moment)
    schedule.next_at = cron.next_time(schedule.cron, schedule.timezone, now)
    rows = [_planned(schedule, moment) for moment in come]
    on_time = now - come[-1] <= _window(schedule)
    for row in rows[:-1] if on_time else rows:
        row |= {"state": RunState.MISSED, "reason_code": "missed", "ended_at": now}
        row["reason"] = "No scheduler was running" + (
            f"; the run for {come[-1]:%Y-%m-%d %H:%M} UTC replaces it." if on_time else "."
        )
    if passed:
        rows[0]["reason"] += f" {passed} earlier runs were missed too."
    # Their columns differ, so each needs its own statement.
    for row in rows:
        session.execute(
            insert(ScheduleRun)
            .values(row)
            .on_conflict_do_nothing(index_elements=["schedule_id", "scheduled_for"])
        )


def _planned(schedule: Schedule, moment: datetime) -> dict[str, Any]:
    return {
        "id": new_id("run"),
        "schedule_id": schedule.id,
        "tenant_id": schedule.tenant_id,
        "scheduled_for": moment,
        "fires_at": cron.jittered(moment, schedule.id, schedule.jitter_seconds),
    }


def _window(schedule: Schedule) -> timedelta:
    return max(timedelta(seconds=schedule.catch_up_seconds), ON_TIME)


# Beginning ------------------------------------------------------------------------------------------


def start(session: Session, settings: Settings, schedule: Schedule, now: datetime) -> None:
    """Starts the run that is due, or applies the schedule's overlap rule if another is still running."""
    current = next(iter(_runs(session, schedule, RunState.RUNNING)), None)
    come = deque(run for run in _runs(session, schedule, RunState.WAITING) if run.fires_at <= now)
    if schedule.overlap == Overlap.CANCEL_PREVIOUS:
        _keep_newest(session, schedule, come)
    while come and current is None:
        run = come.popleft()
        _start_run(session, settings, schedule, run, now)
        if run.state in (RunState.RUNNING, RunState.WAITING):  # waiting for a worker
            current = run
    if current is None:
        return
    if schedule.overlap == Overlap.SKIP:
        for run in come:
            _end(
                session, schedule, run, RunState.SKIPPED, OVERLAP, f"The run {current.id} was still running."
            )
        return
    _keep_newest(session, schedule, come)
    for run in come:
        run.reason_code, run.reason = OVERLAP, f"Waiting for the run {current.id} to end."
        if schedule.overlap == Overlap.CANCEL_PREVIOUS:
            _cancel(session, current)


def _keep_newest(session: Session, schedule: Schedule, come: deque[ScheduleRun]) -> None:
    while len(come) > 1:
        _end(
            session,
            schedule,
            come.popleft(),
            RunState.SKIPPED,
            "replaced",
            f"Replaced by the newer run {come[-1].id}.",
        )


def _cancel(session: Session, run: ScheduleRun) -> None:
    """Cancels a run; it counts as running until its worker, or the conductor, has ended it."""
    if run.bulk_id is not None:
        bulks.cancel(session, run.tenant_id, run.bulk_id)
    elif run.job_id is not None:
        jobs.cancel(session, run.tenant_id, run.job_id)


def _start_run(
    session: Session, settings: Settings, schedule: Schedule, run: ScheduleRun, now: datetime
) -> None:
    """Submits the run's job or bulk job; a refusal fails the run.

    Without a worker it waits instead, for as long as the run may be late.
    """
    late = now > run.fires_at + _window(schedule)
    if late and run.reason_code != NoWorker.code:
        return _end(
            session, schedule, run, RunState.MISSED, "missed", "No scheduler was running when it was due."
        )
    # Outside the savepoint: the event that a budget is crossed must survive a refusal because of it.
    spent = budgets.blocking_budget(session, schedule.tenant_id, schedule.project, schedule.api_key_id)
    try:
        with session.begin_nested():
            held_by = admission.enforce_budget(spent)
            _submit(session, settings, schedule, run, held_by, now)
    except StoreError as error:
        if isinstance(error, NoWorker) and not late:
            run.reason_code, run.reason = error.code, str(error)
            return None
        return _end(session, schedule, run, RunState.FAILED, error.code, str(error))
    run.state, run.started_at = RunState.RUNNING, now
    run.reason_code = run.reason = None
    session.flush()
    return None


def _submit(
    session: Session,
    settings: Settings,
    schedule: Schedule,
    run: ScheduleRun,
    held_by: str | None,
    now: datetime,
) -> None:
    owner = Owner(schedule.tenant_id, schedule.api_key_id, schedule.project)
    template = Template.from_json(schedule.template)
    seconds = template.deadline_seconds
    deadline = None if seconds is None else now + timedelta(seconds=seconds)
    ask = replace(labelled(template.ask, schedule.id), deadline_at=deadline)
    admitted = admission.admit(session, settings, owner, ask)
    if template.document_id is not None:
        document = documents.get(session, owner.tenant_id, template.document_id)
        new = admission.new_job(admitted, settings, owner, document.id, held_by)
        run.job_id = jobs.create(session, owner.tenant_id, new).id
        return
    collection = get_scoped(session, Collection, owner.tenant_id, id=template.collection_id)
    bulk = NewBulk(
        ask=template.ask,  # without labels, as `only_changed` compares this with earlier bulk jobs
        collection_id=collection.id,
        collection_name=collection.name,
        deadline_at=deadline,
        strategy=template.strategy,
        only_changed=template.only_changed,
        digest=template.digest,
        destination=template.destination,
        tags=labels(schedule.id, collection.id),  # also of each of its jobs
    )
    run.bulk_id = bulks.create(session, owner, bulk).id


def _runs(session: Session, schedule: Schedule, state: RunState) -> list[ScheduleRun]:
    """The schedule's runs in a state, by start; with long jitter their times may be in another order."""
    query = select(ScheduleRun).where(ScheduleRun.schedule_id == schedule.id, ScheduleRun.state == state)
    return list(session.scalars(query.order_by(ScheduleRun.fires_at, ScheduleRun.scheduled_for)))
