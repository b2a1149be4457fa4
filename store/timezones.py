"""Time zones by their IANA names."""

from __future__ import annotations

from functools import cache
from zoneinfo import available_timezones

from store.errors import StoreError


class UnknownZone(StoreError):
    """Not the name of an IANA time zone."""

    code = "unknown_timezone"


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def refuse_unknown_zone(name: str) -> None:
    """Raises UnknownZone."""
    if name not in _zones():
        raise UnknownZone(f"There is no time zone '{name}'; an IANA name is meant, as Europe/Berlin.")
