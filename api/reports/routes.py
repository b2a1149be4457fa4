"""Usage, costs and savings: one query over the bills, with three selections of metrics."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from api.context import Caller, CallerDep, Context, ContextDep
from api.http import cursors
from api.http.content_negotiation import CSV, JSON, NDJSON, PARQUET, chosen
from api.http.tabular import moment
from api.problems import Problem, documented
from api.reports.parameters import FILTERS, ReportParameters, report_parameters
from api.reports.render import lines, page, table
from api.reports.schemas import ReportPage
from store.billing import reports
from store.billing.reports import METRICS, Bucket, Query, Report
from store.billing.time_buckets import Width

router = APIRouter(prefix="/v1", tags=["reports"])

USAGE = tuple(
    name
    for name, metric in METRICS.items()
    if metric.unit != "money" and name not in ("full_cache_devices_max", "scorer_quality")
)
COSTS = ("jobs", "device_seconds", "cost", "cost_waste", reports.UNPRICED)
SAVINGS = (
    "jobs",
    reports.MEMORY_SAVED,
    reports.FITTING,
    "saving_allocated",
    "full_cache_cost",
    "full_cache_devices_max",
    "saving_realised",
    reports.REALISED_JOBS,
    "cost",
    "device_seconds_score",
    "scorer_quality",
)

PAGE, MAX_PAGE = 100, 1500  # buckets
MAX_BUCKETS = 100_000  # in a file of the whole interval
_AT_LEAST = {
    Width.MINUTE: timedelta(minutes=1),
    Width.HOUR: timedelta(hours=1),
    Width.DAY: timedelta(hours=23),
    Width.WEEK: timedelta(days=6),
    Width.MONTH: timedelta(days=27),
}

_TABLE = "One row per bucket and group, for the whole interval; an empty bucket has a row without figures."
FORMS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Pages of JSON or, by `Accept`, the whole interval as a file. Includes empty buckets.",
        "headers": {
            "X-As-Of": {"description": "The `as_of` of a file.", "schema": {"type": "string"}},
        },
        "content": {
            CSV: {
                "schema": {
                    "type": "string",
                    "description": f"{_TABLE} Text that looks like a formula gets a leading `'`.",
                },
                "example": "start_time,end_time,model,currency,jobs,device_seconds,cost,cost_waste,"
                "device_seconds_unpriced\r\n2027-01-31T00:00:00Z,2027-02-01T00:00:00Z,bundled,USD,3,61.5,"
                "0.0017083333,0,0\r\n",
            },
            NDJSON: {
                "schema": {"type": "string", "description": f"{_TABLE} Objects as in the `results` of JSON."}
            },
            PARQUET: {"schema": {"type": "string", "format": "binary", "description": _TABLE}},
        },
    },
    **documented(401, 406, 422),
}

Parameters = Annotated[ReportParameters, Depends(report_parameters)]


@router.get("/usage", response_model=ReportPage, responses=FORMS, openapi_extra=FILTERS)
def usage(request: Request, context: ContextDep, caller: CallerDep, parameters: Parameters) -> Any:
    """Report what your jobs used: device time, tokens, memory and storage."""
    return _report(request, context, caller, parameters, USAGE)


@router.get("/costs", response_model=ReportPage, responses=FORMS, openapi_extra=FILTERS)
def costs(request: Request, context: ContextDep, caller: CallerDep, parameters: Parameters) -> Any:
    """Report what your jobs cost, and how much of that was waste."""
    return _report(request, context, caller, parameters, COSTS)


@router.get("/savings", response_model=ReportPage, responses=FORMS, openapi_extra=FILTERS)
def savings(request: Request, context: ContextDep, caller: CallerDep, parameters: Parameters) -> Any:
    """Report what pruning saved in memory and money, and what it cost in scorer time and quality."""
    return _report(request, context, caller, parameters, SAVINGS)


def _report(
    request: Request, context: Context, caller: Caller, parameters: ReportParameters, names: Sequence[str]
) -> Response | ReportPage:
    form = chosen(request, (JSON, CSV, NDJSON, PARQUET))
    query = replace(_query(context, caller, parameters, form), metrics=tuple(names))
    first = _run(context, query, fewer=form != JSON)
    if form == JSON:
        return page(first, names, _sealed(context, caller, parameters, query, first))
    pages = _all(context, query, first)
    body = lines(pages, names) if form == NDJSON else table(form, pages, query.group_by, names)
    headers = {"x-as-of": moment(first.as_of), "vary": "accept"}
    return StreamingResponse(body, media_type=form, headers=headers)


def _run(context: Context, query: Query, *, fewer: bool) -> Report:
    """Runs one page; with `fewer`, of as few buckets as needed to fit the rows. Raises TooManyRows."""
    while True:
        try:
            with context.database.session() as session:
                return reports.run(session, query)
        except reports.TooManyRows:
            if not fewer or query.limit == 1:
                raise
            query = replace(query, limit=query.limit // 2)


def _query(context: Context, caller: Caller, parameters: ReportParameters, form: str) -> Query:
    """Raises Problem 422 for an interval that ends before it starts or is too long for a file."""
    with context.database.session() as session:
        now = reports.now(session)
    start, as_of = parameters.start, min(parameters.as_of or now, now)
    end = parameters.end or as_of
    if parameters.page is not None and form == JSON:
        values = cursors.unseal(context.settings.pepper, _owned(caller, parameters), parameters.page, "page")
        start, end, as_of = map(datetime.fromisoformat, values)
    if start >= end:
        detail = f"The interval ends at {moment(end)}, which is not after its start."
        raise Problem(422, "invalid_request", detail, field="end_time")
    if form != JSON:
        _check_file(parameters, end - start)
    return Query(
        tenant_id=caller.tenant_id,
        start=start,
        end=end,
        width=parameters.width,
        zone=parameters.zone,
        group_by=parameters.group_by,
        filters=parameters.filters,
        as_of=as_of,
        limit=parameters.limit or (PAGE if form == JSON else MAX_PAGE),
    )


def _check_file(parameters: ReportParameters, length: timedelta) -> None:
    for name, value in (("limit", parameters.limit), ("page", parameters.page)):
        if value is not None:
            detail = f"Only JSON is paged; omit '{name}' to get the whole interval."
            raise Problem(422, "invalid_request", detail, field=name)
    if length / _AT_LEAST[parameters.width] > MAX_BUCKETS:
        detail = f"A file has at most {MAX_BUCKETS:,} buckets; choose wider buckets or a shorter interval."
        raise Problem(422, "too_many_buckets", detail, field="bucket_width")


def _owned(caller: Caller, parameters: ReportParameters) -> str:
    return f"{caller.tenant_id} {parameters.identity}"


def _sealed(
    context: Context, caller: Caller, parameters: ReportParameters, query: Query, report: Report
) -> str | None:
    if report.next_start is None:
        return None
    values = [one.isoformat() for one in (report.next_start, query.end, report.as_of)]
    return cursors.seal(context.settings.pepper, _owned(caller, parameters), values)


def _all(context: Context, query: Query, report: Report) -> Iterator[list[Bucket]]:
    """The buckets of this page and of all that follow."""
    while True:
        yield report.buckets
        if report.next_start is None:
            return
        query = replace(query, start=report.next_start)
        report = _run(context, query, fewer=True)
