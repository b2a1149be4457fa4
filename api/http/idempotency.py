"""Idempotency keys, and the fingerprints of request bodies."""

import hashlib
import json
from typing import Annotated

from fastapi import Depends, Header, Request


async def _raw(request: Request) -> bytes:
    return await request.body()


RawBody = Annotated[bytes, Depends(_raw)]


def fingerprint(raw: bytes) -> str:
    """A hash of a JSON body that ignores white space and the order of keys."""
    return hashlib.sha256(json.dumps(json.loads(raw), sort_keys=True).encode()).hexdigest()


IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A repeated request with the same key and body gets the first response again.",
    ),
]
