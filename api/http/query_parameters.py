"""Rejects query parameters that a route does not declare."""

import re
from typing import Any

from fastapi import Request

from api.problems import Problem

_FILTER = re.compile(r"filter\[(.+)\]", re.DOTALL)


_GROUPS = ("group_by", "group_by[]")


def refuse_undeclared(request: Request) -> None:
    """Raises Problem 422 for unknown parameters, for repeated ones that are not lists, and for U+0000."""
    given = request.query_params
    if not given:
        return
    path, method = request.scope["route"].path_format, request.method.lower()
    declared = request.app.openapi()["paths"][path][method].get("parameters", ())
    queries = {one["name"]: one for one in declared if one["in"] == "query"}
    has_filters = queries.pop("filter", None) is not None
    lists = {name for name, one in queries.items() if _is_list(one["schema"])}
    known = [*queries, *(["filter[<group>]"] if has_filters else [])]
    for name in given:
        values = given.getlist(name)
        if any("\0" in text for text in (name, *values)):
            raise Problem(422, "invalid_request", "The character U+0000 is not allowed.", field=name)
        if has_filters and (name in _GROUPS or _FILTER.fullmatch(name)):
            continue
        if name not in queries:
            valid = f"valid parameters: {', '.join(known)}" if known else "this route takes none"
            detail = f"Unknown parameter '{name}'; {valid}."
            raise Problem(422, "unknown_parameter", detail, field=name)
        if name not in lists and len(values) > 1:
            raise Problem(422, "invalid_request", f"'{name}' may be given only once.", field=name)


def _is_list(schema: dict[str, Any]) -> bool:
    return any(choice.get("type") == "array" for choice in schema.get("anyOf", [schema]))
