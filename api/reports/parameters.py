"""The query parameters of a report."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import Query, Request

from api.http.query_parameters import _FILTER, _GROUPS
from api.problems import Problem
from api.schemas import Time
from store.billing import reports
from store.billing.time_buckets import Width
from store.timezones import refuse_unknown_zone

MAX_GROUPS = 16
_ONCE = ("start_time", "end_time", "bucket_width", "timezone", "limit", "page", "as_of")

# FastAPI cannot declare parameters with variable names.
FILTERS: dict[str, Any] = {
    "parameters": [
        {
            "name": "filter",
            "in": "query",
            "style": "deepObject",
            "explode": True,
            "description": "`filter[<group>]=value`, for any group. If repeated for a group, one of the "
            "values must match.",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            "example": {"model": "bundled", "tag:team": "red"},
        }
    ]
}

StartTime = Annotated[Time, Query(description="Inclusive; RFC 3339 with an offset.")]
EndTime = Annotated[Time | None, Query(description="Exclusive. Default: `as_of`, or now.")]


@dataclass(frozen=True)
class ReportParameters:
    """The parameters of a report. `identity` is the same for all pages of one query."""

    start: datetime
    end: datetime | None
    width: Width
    zone: tzinfo
    group_by: tuple[str, ...]
    filters: dict[str, list[str]]
    limit: int | None
    page: str | None
    as_of: datetime | None
    identity: str


def report_parameters(
    request: Request,
    start_time: StartTime,
    end_time: EndTime = None,
    bucket_width: Annotated[Width, Query(description="In local time; weeks start on Monday.")] = Width.DAY,
    timezone: Annotated[str, Query(description="IANA name of the time zone of the buckets.")] = "UTC",
    group_by: Annotated[
        list[str] | None,
        Query(
            alias="group_by[]",
            max_length=MAX_GROUPS,
            description=f"May be repeated, also as `group_by`: {', '.join(reports.GROUPS)}, or "
            "`tag:<key>` for a key of the jobs' metadata.",
        ),
    ] = None,
    limit: Annotated[
        int | None, Query(ge=1, le=1500, description="Buckets per page. Default: 100. JSON only.")
    ] = None,
    page: Annotated[
        str | None,
        Query(
            max_length=1000, description="`next_page` of the previous page, with the same query. JSON only."
        ),
    ] = None,
    as_of: Annotated[
        Time | None,
        Query(
            description="Counts only bills booked before it: repeating a query with the `as_of` of its "
            "response gives the same response. Default: now."
        ),
    ] = None,
) -> ReportParameters:
    """Reads and checks the parameters. Raises Problem 422."""
    given = request.query_params
    groups = [name for spelling in _GROUPS for name in given.getlist(spelling)]
    if len(groups) > MAX_GROUPS:
        raise Problem(422, "invalid_request", f"At most {MAX_GROUPS} groups are allowed.", field="group_by[]")
    filters = {
        match[1]: given.getlist(name) for name in given if (match := _FILTER.fullmatch(name)) is not None
    }
    _check_groups(groups, lambda name: "group_by[]")
    _check_groups(filters, lambda name: f"filter[{name}]")
    return ReportParameters(
        start=start_time,
        end=end_time,
        width=bucket_width,
        zone=_zone(timezone),
        group_by=tuple(dict.fromkeys(groups)),
        filters=filters,
        limit=limit,
        page=page,
        as_of=as_of,
        identity=json.dumps(
            [
                request.url.path,
                *(given.get(name) for name in _ONCE if name not in ("limit", "page")),
                groups,
                sorted(filters.items()),
            ]
        ),
    )


def _check_groups(names: Iterable[str], field: Callable[[str], str]) -> None:
    for name in names:
        try:
            reports.column_of(name)
        except reports.UnknownGroup as error:
            error.field = field(name)
            raise


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    refuse_unknown_zone(name)
    return ZoneInfo(name)
