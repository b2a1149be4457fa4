"""Exports for cost management tools."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from api.context import Caller, CallerDep, Context, ContextDep
from api.http.content_negotiation import CSV, PARQUET, chosen
from api.http.tabular import Value, moment, written
from api.problems import Problem, documented
from api.reports import focus
from api.reports.parameters import EndTime, StartTime
from store.billing import charges, reports

router = APIRouter(prefix="/v1/exports", tags=["reports"])

ROWS_AT_ONCE = 1000
_FORMS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One row per bill: an attempt of a job, or an hour of stored documents.",
        "content": {
            CSV: {
                "schema": {
                    "type": "string",
                    "description": f"The columns are {', '.join(one.name for one in focus.COLUMNS)}. "
                    "Null is an empty cell; text that looks like a formula gets a leading `'`.",
                }
            },
            PARQUET: {"schema": {"type": "string", "format": "binary", "description": "The same columns."}},
        },
    },
    **documented(401, 406, 422),
}


@router.get("/focus", response_class=StreamingResponse, responses=_FORMS)
def focus_export(
    request: Request,
    context: ContextDep,
    caller: CallerDep,
    start_time: StartTime,
    end_time: EndTime = None,
) -> StreamingResponse:
    """Export your bills in FOCUS 1.2, with the estimated cost of a full cache in `x_` columns."""
    form = chosen(request, (CSV, PARQUET))
    with context.database.session() as session:
        now = reports.now(session)
    end = min(end_time or now, now)
    if start_time >= (end_time or now):
        detail = f"The interval ends at {moment(end_time or now)}, which is not after its start."
        raise Problem(422, "invalid_request", detail, field="end_time")
    body = written(form, focus.COLUMNS, _pages(context, caller, start_time, end))
    return StreamingResponse(body, media_type=form, headers={"vary": "accept"})


def _pages(
    context: Context, caller: Caller, start: datetime, end: datetime
) -> Iterator[list[tuple[Value, ...]]]:
    """Pages of rows. Each page uses a connection of its own, so that a slow reader does not hold one."""
    after: charges.Place | None = None
    while True:
        with context.database.session() as session:
            found = charges.page(session, caller.tenant_id, start, end, after, ROWS_AT_ONCE)
        yield [focus.row(charge) for charge in found]
        if len(found) < ROWS_AT_ONCE:
            return
        after = found[-1].place
