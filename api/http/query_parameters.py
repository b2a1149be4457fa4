"""Query parameters: those that a route does not declare are refused."""

import re
from typing import Any

from fastapi import Request

from api.problems import Problem

_FILTER = re.compile(r"filter\[(.+)\]", re.DOTALL)


_GROUPS = ("group_by", "group_by[]")


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
