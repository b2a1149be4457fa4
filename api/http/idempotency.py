"""Idempotency keys, and what tells two requests with the same one apart."""

import hashlib
import json
from typing import Annotated

from fastapi import Depends, Header, Request


async def _raw(request: Request) -> bytes:
    return await request.body()


RawBody = Annotated[bytes, Depends(_raw)]


def fingerprint(raw: bytes) -> str:
    """The same for two bodies that say the same."""
    return hashlib.sha256(json.dumps(json.loads(raw), sort_keys=True).encode()).hexdigest()


IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same body gets the first answer, not a second job.",
    ),
]
