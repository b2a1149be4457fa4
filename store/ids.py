"""Identifiers: a type prefix and 26 characters that sort by the time they were made."""

from __future__ import annotations

import secrets
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, in the order of its characters


def new_id(prefix: str) -> str:
    """A new id such as `job_06b…`: 48 bits of Unix milliseconds, then 80 random bits, as in UUIDv7."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return f"{prefix}_" + "".join(ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
