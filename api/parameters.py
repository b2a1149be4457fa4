"""Query parameters, none of which is silently ignored, and what a report is asked for with."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import Query, Request

from api.problems import Problem
from api.schemas import Time
from store.billing import reports
from store.billing.time_buckets import Width

MAX_GROUPS = 16
_FILTER = re.compile(r"filter\[(.+)\]", re.DOTALL)
_ONCE = ("start_time", "end_time", "bucket_width", "timezone", "limit", "page", "as_of")
_GROUPS = ("group_by", "group_by[]")

# FastAPI cannot declare parameters whose names are open.
FILTERS: dict[str, Any] = {
    "parameters": [
        {
            "name": "filter",
            "in": "query",
            "style": "deepObject",
            "explode": True,
            "description": "`filter[<group>]=value`, for any group; given more than once for a group, one of "
            "the values must match.",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            "example": {"model": "bundled", "tag:team": "red"},
        }
    ]
}

StartTime = Annotated[Time, Query(description="Inclusive; RFC 3339 with an offset.")]
EndTime = Annotated[Time | None, Query(description="Exclusive; now (or `as_of`) when left out.")]


@dataclass(frozen=True)
class Asked:
    """The parameters of a report. `identity` tells those of one query from those of another."""

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


def asked_for(
    request: Request,
    start_time: StartTime,
    end_time: EndTime = None,
    bucket_width: Annotated[
        Width, Query(description="By the zone's clock; weeks begin on Monday.")
    ] = Width.DAY,
    timezone: Annotated[
        str, Query(description="IANA name of the zone whose hours, days and months the buckets are.")
    ] = "UTC",
    group_by: Annotated[
        list[str] | None,
        Query(
            alias="group_by[]",
            max_length=MAX_GROUPS,
            description=f"May be given more than once, also as `group_by`: {', '.join(reports.GROUPS)}, or "
            "`tag:<key>` for a key of the jobs' metadata.",
        ),
    ] = None,
    limit: Annotated[
        int | None, Query(ge=1, le=1500, description="Buckets a page; 100 when left out. JSON only.")
    ] = None,
    page: Annotated[
        str | None,
        Query(max_length=1000, description="`next_page` of the page before, with the same query. JSON only."),
    ] = None,
    as_of: Annotated[
        Time | None,
        Query(
            description="Counts only what was booked before: the same query with the `as_of` of an answer "
            "gets the same answer. Now when left out or in the future."
        ),
    ] = None,
) -> Asked:
    """Reads and checks the parameters. Raises Problem 422."""
    given = request.query_params
    groups = [name for spelling in _GROUPS for name in given.getlist(spelling)]
    if len(groups) > MAX_GROUPS:
        raise Problem(422, "invalid_request", f"There are at most {MAX_GROUPS} groups.", field="group_by[]")
    filters = {
        match[1]: given.getlist(name) for name in given if (match := _FILTER.fullmatch(name)) is not None
    }
    _known(groups, lambda name: "group_by[]")
    _known(filters, lambda name: f"filter[{name}]")
    return Asked(
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


def refuse_undeclared(request: Request) -> None:
    """Raises Problem 422 for a query parameter that the operation does not have, one given too often, or one
    that is no text."""
    given = request.query_params
    if not given:
        return
    path, method = request.scope["route"].path_format, request.method.lower()
    declared = request.app.openapi()["paths"][path][method].get("parameters", ())
    queries = {one["name"]: one for one in declared if one["in"] == "query"}
    has_filters = queries.pop("filter", None) is not None
    often = {name for name, one in queries.items() if _is_list(one["schema"])}
    known = [*queries, *(["filter[<group>]"] if has_filters else [])]
    for name in given:
        values = given.getlist(name)
        if any("\0" in text for text in (name, *values)):
            raise Problem(422, "invalid_request", "The character U+0000 is not text.", field=name)
        if has_filters and (name in _GROUPS or _FILTER.fullmatch(name)):
            continue
        if name not in queries:
            there = f"there are {', '.join(known)}" if known else "there is none"
            detail = f"There is no parameter '{name}' here; {there}."
            raise Problem(422, "unknown_parameter", detail, field=name)
        if name not in often and len(values) > 1:
            raise Problem(422, "invalid_request", f"'{name}' may be given once.", field=name)


def _is_list(schema: dict[str, Any]) -> bool:
    return any(choice.get("type") == "array" for choice in schema.get("anyOf", [schema]))


def _known(names: Iterable[str], field: Callable[[str], str]) -> None:
    for name in names:
        try:
            reports.column_of(name)
        except reports.UnknownGroup as error:
            raise Problem(422, "unknown_group", str(error), field=field(name)) from None


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        detail = f"There is no time zone '{name}'; use an IANA name such as Europe/Berlin."
        raise Problem(422, "unknown_timezone", detail, field="timezone") from None
