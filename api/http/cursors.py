"""Cursors: a place in a list, sealed with the query that it belongs to."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from api.problems import Problem

Row = TypeVar("Row")
Cursor = Annotated[
    str | None, Query(max_length=400, description="`next_cursor` of the page before, with the same query.")
]
Limit = Annotated[int, Query(ge=1, le=100, description="Rows a page.")]


def cut(
    secret: bytes, query: str, rows: list[Row], limit: int, place: Callable[[Row], Sequence[str]]
) -> tuple[list[Row], str | None]:
    """The page that begins rows of which one more than `limit` was looked for, and the cursor after it."""
    page = rows[:limit]
    return page, seal(secret, query, place(page[-1])) if len(rows) > limit else None


def seal(secret: bytes, query: str, values: Sequence[str]) -> str:
    """A cursor that `unseal` turns into the same values, for the same query only."""
    body = json.dumps(list(values)).encode()
    return base64.urlsafe_b64encode(_digest(secret, query, body) + body).decode().rstrip("=")


def unseal(secret: bytes, query: str, cursor: str, field: str) -> list[str]:
    """Raises Problem 422 `invalid_cursor` for one that was not made for this query."""
    try:
        sealed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        sealed = b""
    digest, body = sealed[:16], sealed[16:]
    if not hmac.compare_digest(digest, _digest(secret, query, body)):
        detail = "This cursor does not belong to this query; repeat it with what the page before gave."
        raise Problem(422, "invalid_cursor", detail, field=field)
    values: list[str] = json.loads(body)
    return values


def _digest(secret: bytes, query: str, body: bytes) -> bytes:
    return hmac.new(secret, b"\0".join((b"cursor", query.encode(), body)), hashlib.sha256).digest()[:16]
