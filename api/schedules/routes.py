"""Schedules: jobs and bulk jobs on a cron schedule."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from api.bulk import submission as bulk_submission
from api.context import Caller, CallerDep, Context, ContextDep
from api.http.cursors import Cursor, Limit, Pager
from api.jobs.schemas import work_out
from api.jobs.submission import owner_of
from api.problems import documented
from api.schedules.schemas import (
    PreviewOut,
    RunCostOut,
    RunOut,
    RunPage,
    ScheduleCreate,
    ScheduleOut,
    SchedulePage,
    TimeOut,
)
from api.schemas import ErrorOut
from store import schedules
from store.schedules import NewSchedule, Overlap, RunState, Template
from store.tables.schedules import Schedule, ScheduleRun

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])


def schedule_out(row: Schedule) -> ScheduleOut:
    """A row in the API's form."""
    template = Template.from_json(row.template)
    work = work_out(row.template["ask"])
    if template.ask.task != "summarize":
        del work["points"]
    shared = {} if template.deadline_seconds is None else {"deadline_seconds": template.deadline_seconds}
    job: dict[str, Any] | None = None
    bulk: dict[str, Any] | None = None
    if template.document_id is not None:
        job = {"document_id": template.document_id, **work, **shared}
    else:
        bulk = {
            "collection": template.collection_id,
            "job": work,
            "strategy": template.strategy,
            "digest": template.digest,
            "only_changed": template.only_changed,
            "to": template.destination,
            **shared,
        }
    return ScheduleOut(
        id=row.id,
        name=row.name,
        cron=row.cron,
        timezone=row.timezone,
        overlap=Overlap(row.overlap),
        catch_up_seconds=row.catch_up_seconds,
        jitter_seconds=row.jitter_seconds,
        max_failures=row.max_failures,
        failures=row.failures,
        project=row.project,
        job=job,
        bulk=bulk,
        next_at=row.next_at,
        paused_at=row.paused_at,
        pause_reason=row.pause_reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def run_out(run: ScheduleRun, cost: dict[str, Decimal]) -> RunOut:
    """A run in the API's form."""
    return RunOut(
        id=run.id,
        schedule_id=run.schedule_id,
        scheduled_for=run.scheduled_for,
        fires_at=run.fires_at,
        manual=run.manual,
        state=RunState(run.state),
        job_id=run.job_id,
        bulk_id=run.bulk_id,
        reason=ErrorOut(code=run.reason_code, message=run.reason or "") if run.reason_code else None,
        cost=[RunCostOut(amount=amount, currency=currency) for currency, amount in sorted(cost.items())],
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
    )


def _new(context: Context, caller: Caller, session: Session, body: ScheduleCreate) -> NewSchedule:
    if body.bulk is None:
        return body.new()
    bulk_submission.check(context, caller, session, body.bulk)
    return body.new(bulk_submission.collection_of(context, caller, session, body.bulk).id)


@router.post("", status_code=201, responses=documented(400, 401, 404, 409, 422))
def create(
    body: ScheduleCreate,
    request: Request,
    response: Response,
    context: ContextDep,
    caller: CallerDep,
    dry_run: Annotated[
        bool, Query(description="Validate it and respond as usual, but save nothing.")
    ] = False,
) -> ScheduleOut:
    """Create a schedule. Its jobs are billed to the key that creates it."""
    with context.database.session() as session:
        new = _new(context, caller, session, body)
        row = schedules.create(session, context.settings, owner_of(caller), new)
        shown = schedule_out(row)
        if dry_run:
            session.rollback()
            response.status_code = 200
            return shown
    response.headers["location"] = request.url_for("show_schedule", schedule_id=shown.id).path
    return shown


@router.get("", responses=documented(401, 422))
def index(context: ContextDep, caller: CallerDep, cursor: Cursor = None, limit: Limit = 20) -> SchedulePage:
    """List your schedules, newest first."""
    pager = Pager(context.settings.pepper, f"schedules {caller.tenant_id}")
    with context.database.session() as session:
        rows = schedules.list_schedules(session, caller.tenant_id, before=pager.key(cursor), limit=limit + 1)
    page, after = pager.cut(rows, limit, lambda row: [row.id])
    return SchedulePage(
        data=[schedule_out(row) for row in page], has_more=after is not None, next_cursor=after
    )


@router.get("/{schedule_id}", name="show_schedule", responses=documented(401, 404))
def show(schedule_id: str, context: ContextDep, caller: CallerDep) -> ScheduleOut:
    """Get a schedule, its next run and, if it is paused, the reason."""
    with context.database.session() as session:
        return schedule_out(schedules.get(session, caller.tenant_id, schedule_id))


@router.put("/{schedule_id}", responses=documented(400, 401, 404, 409, 422))
def replace(schedule_id: str, body: ScheduleCreate, context: ContextDep, caller: CallerDep) -> ScheduleOut:
    """Replace the times and the work of a schedule. It stays paused if it is; started runs continue."""
    with context.database.session() as session:
        owner, new = owner_of(caller), _new(context, caller, session, body)
        return schedule_out(schedules.change(session, context.settings, owner, schedule_id, new))


@router.delete("/{schedule_id}", status_code=204, responses=documented(401, 404))
def delete(schedule_id: str, context: ContextDep, caller: CallerDep) -> None:
    """Delete a schedule. Started runs continue, waiting ones are skipped."""
    with context.database.session() as session:
        schedules.remove(session, caller.tenant_id, schedule_id)


@router.post("/{schedule_id}/pause", responses=documented(401, 404))
def pause(schedule_id: str, context: ContextDep, caller: CallerDep) -> ScheduleOut:
    """Pause a schedule: no scheduled runs until it is resumed. Idempotent."""
    with context.database.session() as session:
        return schedule_out(schedules.pause(session, caller.tenant_id, schedule_id))


@router.post("/{schedule_id}/resume", responses=documented(401, 404))
def resume(schedule_id: str, context: ContextDep, caller: CallerDep) -> ScheduleOut:
    """Resume a schedule from its next due time. Runs missed while paused are not caught up."""
    with context.database.session() as session:
        return schedule_out(schedules.resume(session, caller.tenant_id, schedule_id))


@router.post("/{schedule_id}/run", status_code=202, responses=documented(401, 404))
def run(schedule_id: str, context: ContextDep, caller: CallerDep) -> RunOut:
    """Run it now, even if paused. The run starts within seconds, unless it has to wait for an earlier one."""
    with context.database.session() as session:
        return run_out(schedules.run_now(session, caller.tenant_id, schedule_id), {})


@router.get("/{schedule_id}/preview", responses=documented(401, 404, 422))
def preview(
    schedule_id: str,
    context: ContextDep,
    caller: CallerDep,
    count: Annotated[int, Query(ge=1, le=100)] = 10,
) -> PreviewOut:
    """Preview its next times, in its time zone and in UTC."""
    with context.database.session() as session:
        row = schedules.get(session, caller.tenant_id, schedule_id)
        zone = ZoneInfo(row.timezone)
        found = schedules.preview(session, row, count)
        return PreviewOut(timezone=row.timezone, data=[_time(*one, zone) for one in found])


def _time(moment: datetime, fires_at: datetime, zone: ZoneInfo) -> TimeOut:
    local = moment.astimezone(zone).isoformat()
    return TimeOut(utc=moment, local=local, utc_offset=local[19:], fires_at=fires_at.astimezone(UTC))


@router.get("/{schedule_id}/runs", responses=documented(401, 404, 422))
def runs(
    schedule_id: str, context: ContextDep, caller: CallerDep, cursor: Cursor = None, limit: Limit = 20
) -> RunPage:
    """List its runs, the latest first: how each ended, why, and what it cost."""
    pager = Pager(context.settings.pepper, f"runs {caller.tenant_id} {schedule_id}")
    last = pager.key(cursor)
    before = None if last is None else datetime.fromisoformat(last)
    with context.database.session() as session:
        found = schedules.history(session, caller.tenant_id, schedule_id, before=before, limit=limit + 1)
        page, after = pager.cut(found, limit, lambda run: [run.scheduled_for.isoformat()])
        cost = schedules.costs(session, caller.tenant_id, page)
    data = [run_out(one, cost[one.id]) for one in page]
    return RunPage(data=data, has_more=after is not None, next_cursor=after)
