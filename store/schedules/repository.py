"""Schedules as their owners see them: create, change, pause, run now, and the history of runs.

The scheduler (`worker.loops.scheduler`) starts and ends runs with `store.schedules.runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from typing import Any

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from store import bulk, collections, documents
from store.errors import Conflict
from store.ids import new_id
from store.jobs import admission
from store.jobs.admission import Ask, Owner
from store.schedules import cron
from store.settings import Settings
from store.tables.billing import Bill
from store.tables.jobs import Job
from store.tables.schedules import Schedule, ScheduleRun
from store.tenancy import get_by_id_or_name, scoped
from store.timezones import refuse_unknown_zone


class Overlap(StrEnum):
    """What happens to a run that is due while the previous one is still running."""

    SKIP = "skip"
    QUEUE = "queue"  # it waits; of several, only the newest
    CANCEL_PREVIOUS = "cancel_previous"


class RunState(StrEnum):
    WAITING = "waiting"  # for its time, a worker, or the run before it
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    MISSED = "missed"  # no scheduler was running at the time


class ScheduleExists(Conflict):
    """The tenant has a schedule of this name."""

    code = "schedule_exists"
    field = "name"


@dataclass(frozen=True)
class Template:
    """What a run starts: a job for a document, or a bulk job over the collection as it is by then.

    Attributes:
        deadline_seconds: from the start of a run; None = no deadline.
        strategy, digest, only_changed, destination: as in `store.bulk.NewBulk`.
    """

    kind: str  # job | bulk
    ask: Ask
    deadline_seconds: float | None = None
    document_id: str | None = None
    collection_id: str | None = None
    strategy: str = "whole"
    digest: bool = True
    only_changed: bool = False
    destination: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return {**asdict(self), "ask": bulk.ask_to_json(self.ask)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Template:
        """From the stored form."""
        return Template(**{**values, "ask": bulk.ask_from_json(values["ask"])})


@dataclass(frozen=True)
class NewSchedule:
    """A request for a schedule.

    Attributes:
        catch_up_seconds: how late a run may start; after an outage, the newest run due within it still runs.
        jitter_seconds: each run is delayed by up to so much, always the same for the same run.
        max_failures: consecutive failures that pause the schedule.
    """

    name: str
    cron: str
    template: Template
    timezone: str = "UTC"
    overlap: Overlap = Overlap.SKIP
    catch_up_seconds: int = 3600
    jitter_seconds: int = 0
    max_failures: int = 5


def create(session: Session, settings: Settings, owner: Owner, new: NewSchedule) -> Schedule:
    """Creates a schedule. Raises ScheduleExists, CronInvalid, UnknownZone, NotFound, Refused."""
    schedule_id = new_id("sch")
    values = _checked(session, settings, owner, schedule_id, new)
    values["next_at"] = cron.next_time(new.cron, new.timezone, _now(session))
    values |= {"tenant_id": owner.tenant_id, "api_key_id": owner.key_id, "project": owner.project}
    return _write(session, Schedule(id=schedule_id), values)


def change(session: Session, settings: Settings, owner: Owner, id_or_name: str, new: NewSchedule) -> Schedule:
    """Replaces the whole request and resets the failure count; a paused schedule stays paused.

    Runs that have started are not affected. Raises as `create` does.
    """
    row = _locked(session, owner.tenant_id, id_or_name)
    values = _checked(session, settings, owner, row.id, new)
    values |= {"failures": 0, "updated_at": _now(session)}
    following = cron.next_time(new.cron, new.timezone, _now(session))
    # With unchanged times, a run that is due but not yet planned must not be lost.
    same_times = (row.cron, row.timezone) == (new.cron, new.timezone)
    if row.paused_at is None and not same_times:
        values["next_at"] = following
    return _write(session, row, values)


def _write(session: Session, row: Schedule, values: dict[str, Any]) -> Schedule:
    try:
        with session.begin_nested():
            for name, value in values.items():
                setattr(row, name, value)
            session.add(row)
            session.flush()
    except IntegrityError:
        raise ScheduleExists(f"A schedule named '{values['name']}' already exists.") from None
    return row


def _checked(
    session: Session, settings: Settings, owner: Owner, schedule_id: str, new: NewSchedule
) -> dict[str, Any]:
    """The columns of a request, once all of it has been checked."""
    refuse_unknown_zone(new.timezone)
    template = new.template
    if template.document_id is not None:
        documents.get(session, owner.tenant_id, template.document_id)
    if template.collection_id is not None:
        collections.get(session, owner.tenant_id, template.collection_id)
    admission.check(session, settings, owner, labelled(template.ask, schedule_id))
    return {
        "name": new.name,
        "cron": new.cron,
        "timezone": new.timezone,
        "kind": template.kind,
        "template": template.to_json(),
        "overlap": new.overlap.value,
        "catch_up_seconds": new.catch_up_seconds,
        "jitter_seconds": new.jitter_seconds,
        "max_failures": new.max_failures,
    }


def labels(schedule_id: str, collection_id: str | None = None) -> dict[str, str]:
    """The metadata of a schedule's jobs: reports group by it, and scorers can be activated by it."""
    return {"schedule_id": schedule_id} | ({"collection_id": collection_id} if collection_id else {})


def labelled(ask: Ask, schedule_id: str) -> Ask:
    """The request with the metadata of a schedule's jobs."""
    return replace(ask, metadata={**ask.metadata, **labels(schedule_id)})


def _now(session: Session) -> datetime:
    moment: datetime = session.scalars(select(func.now())).one()
    return moment


def get(session: Session, tenant_id: str, id_or_name: str) -> Schedule:
    """Raises NotFound, also for a deleted schedule."""
    return get_by_id_or_name(session, Schedule, tenant_id, "sch", id_or_name, deleted_at=None)


def _locked(session: Session, tenant_id: str, id_or_name: str) -> Schedule:
    """The schedule, locked, which schedulers then skip. Raises NotFound."""
    found = get(session, tenant_id, id_or_name)
    query = scoped(Schedule, tenant_id).where(Schedule.id == found.id, Schedule.deleted_at.is_(None))
    locked = session.scalars(
        query.with_for_update(), execution_options={"populate_existing": True}
    ).one_or_none()
    return locked or get(session, tenant_id, id_or_name)  # raises NotFound if it was deleted in the meantime


def list_schedules(
    session: Session, tenant_id: str, *, before: str | None = None, limit: int = 20
) -> list[Schedule]:
    """The tenant's schedules, newest first; `before` is the id of the previous page's last one."""
    query = scoped(Schedule, tenant_id).where(Schedule.deleted_at.is_(None))
    if before is not None:
        query = query.where(Schedule.id < before)
    return list(session.scalars(query.order_by(Schedule.id.desc()).limit(limit)))


def remove(session: Session, tenant_id: str, id_or_name: str) -> None:
    """Deletes a schedule. Running runs continue, waiting ones are skipped. Raises NotFound."""
    row = _locked(session, tenant_id, id_or_name)
    stop(session, row, "deleted", "The schedule was deleted.", manual_too=True)
    row.deleted_at = _now(session)


def pause(session: Session, tenant_id: str, id_or_name: str) -> Schedule:
    """Stops scheduled runs; waiting ones are skipped. Idempotent. Raises NotFound."""
    row = _locked(session, tenant_id, id_or_name)
    if row.paused_at is None:
        row.paused_at, row.pause_reason = _now(session), "Paused by hand."
        stop(session, row, "paused", "The schedule was paused.")
    return row


def resume(session: Session, tenant_id: str, id_or_name: str) -> Schedule:
    """Resumes from the next due time, with a failure count of zero. Raises NotFound."""
    row = _locked(session, tenant_id, id_or_name)
    if row.paused_at is not None:
        row.paused_at = row.pause_reason = None
        row.failures = 0
        row.next_at = cron.next_time(row.cron, row.timezone, _now(session))
    return row


def stop(session: Session, row: Schedule, code: str, reason: str, *, manual_too: bool = False) -> None:
    """Plans no further runs of a schedule, locked by the caller, and skips the waiting ones."""
    row.next_at = None
    statement = update(ScheduleRun).where(
        ScheduleRun.schedule_id == row.id, ScheduleRun.state == RunState.WAITING
    )
    if not manual_too:
        statement = statement.where(ScheduleRun.manual.is_(False))
    session.execute(
        statement.values(state=RunState.SKIPPED, reason_code=code, reason=reason, ended_at=func.now())
    )


def run_now(session: Session, tenant_id: str, id_or_name: str) -> ScheduleRun:
    """Adds a manual run, even if paused; the scheduler starts it within seconds. Raises NotFound."""
    row = _locked(session, tenant_id, id_or_name)
    now = func.clock_timestamp()  # not the transaction's start, which two concurrent calls might share
    values = {"id": new_id("run"), "schedule_id": row.id, "tenant_id": tenant_id, "manual": True}
    statement = insert(ScheduleRun).values(**values, scheduled_for=now, fires_at=now)
    return session.scalars(statement.returning(ScheduleRun)).one()


def preview(session: Session, row: Schedule, count: int) -> list[tuple[datetime, datetime]]:
    """The next times, paused or not, each with the start of its run; in UTC."""
    found = islice(cron.times(row.cron, row.timezone, _now(session)), count)
    return [(one, cron.jittered(one, row.id, row.jitter_seconds)) for one in found]


def history(
    session: Session, tenant_id: str, id_or_name: str, *, before: datetime | None = None, limit: int = 20
) -> list[ScheduleRun]:
    """A schedule's runs, the latest first; `before` is `scheduled_for` of the previous page's last one.

    Raises NotFound.
    """
    row = get(session, tenant_id, id_or_name)
    query = scoped(ScheduleRun, tenant_id).where(ScheduleRun.schedule_id == row.id)
    if before is not None:
        query = query.where(ScheduleRun.scheduled_for < before)
    return list(session.scalars(query.order_by(ScheduleRun.scheduled_for.desc()).limit(limit)))


def costs(session: Session, tenant_id: str, runs: Sequence[ScheduleRun]) -> dict[str, dict[str, Decimal]]:
    """Run → currency → the cost so far of its job, or of its bulk job's jobs."""
    run_of = {begun: one.id for one in runs if (begun := one.bulk_id or one.job_id)}
    part_of = func.coalesce(Job.bulk_id, Job.id)
    query = scoped(Bill, tenant_id).join(Job, Job.id == Bill.job_id)
    query = query.where(or_(Job.id.in_(run_of), Job.bulk_id.in_(run_of)), Bill.cost.is_not(None))
    summed = query.with_only_columns(part_of, Bill.currency, func.sum(Bill.cost))
    found: dict[str, dict[str, Decimal]] = {one.id: {} for one in runs}
    for whose, currency, cost in session.execute(summed.group_by(part_of, Bill.currency)):
        found[run_of[whose]][currency] = cost or Decimal(0)
    return found
