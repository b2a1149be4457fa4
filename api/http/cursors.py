"""Lists page by page: a cursor is a place in a list, sealed with the query that it belongs to."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Query

from api.problems import Problem

Row = TypeVar("Row")
# A place may be a path of 1000 bytes, which JSON and base64 make eight times as long at worst.
Cursor = Annotated[
    str | None, Query(max_length=9000, description="`next_cursor` of the previous page, with the same query.")
]
Limit = Annotated[int, Query(ge=1, le=100, description="Rows per page.")]
LargeLimit = Annotated[int, Query(ge=1, le=1000, description="Rows per page.")]  # where rows are small


@dataclass(frozen=True)
class Pager:
    """The pages of one query, whose filters and owner are all in `query`."""

    secret: bytes
    query: str

    def place(self, cursor: str | None) -> list[str] | None:
        """What `cut` was given for the last row of the previous page; None on the first page.

        Raises Problem 422 `invalid_cursor`.
        """
        return unseal(self.secret, self.query, cursor, "cursor") if cursor else None

    def key(self, cursor: str | None) -> str | None:
        """Like `place`, where that is one value."""
        place = self.place(cursor)
        return None if place is None else place[0]

    def cut(
        self, rows: list[Row], limit: int, place: Callable[[Row], Sequence[str]]
    ) -> tuple[list[Row], str | None]:
        """The first `limit` of the `limit + 1` fetched rows, and the cursor of the next page."""
        page = rows[:limit]
        return page, seal(self.secret, self.query, place(page[-1])) if len(rows) > limit else None


def seal(secret: bytes, query: str, values: Sequence[str]) -> str:
    """A cursor that `unseal` turns into the same values, for the same query only."""
    body = json.dumps(list(values), ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(_digest(secret, query, body) + body).decode().rstrip("=")


def unseal(secret: bytes, query: str, cursor: str, field: str) -> list[str]:
    """Raises Problem 422 `invalid_cursor` for a cursor that was not made for this query."""
    try:
        sealed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        sealed = b""
    digest, body = sealed[:16], sealed[16:]
    if not hmac.compare_digest(digest, _digest(secret, query, body)):
        detail = "This cursor belongs to another query; repeat the query that it came from."
        raise Problem(422, "invalid_cursor", detail, field=field)
    values: list[str] = json.loads(body)
    return values


def _digest(secret: bytes, query: str, body: bytes) -> bytes:
    return hmac.new(secret, b"\0".join((b"cursor", query.encode(), body)), hashlib.sha256).digest()[:16]
