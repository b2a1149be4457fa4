"""Identifiers: a type prefix and a ULID, so that they sort by creation time."""

from __future__ import annotations

import secrets
import time

# Crockford's base 32. Its characters are in ASCII order, so ids sort as text.
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """A new id such as `job_06b…`: the prefix and a ULID in lower case.

    A ULID is 48 bits of Unix milliseconds and 80 random bits, as 26 characters of Crockford's base 32. Ids of
    the same millisecond are in random order. https://github.com/ulid/spec
    """
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return f"{prefix}_" + "".join(ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
