"""Time zones by their IANA names."""

from __future__ import annotations

from functools import cache
from zoneinfo import available_timezones

from store.errors import Invalid


class UnknownZone(Invalid):
    """Not the name of an IANA time zone."""

    code = "unknown_timezone"
    field = "timezone"


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def refuse_unknown_zone(name: str) -> None:
    """Raises UnknownZone for a name that is not in the IANA database."""
    if name not in _zones():
        raise UnknownZone(f"There is no time zone '{name}'; use an IANA name such as Europe/Berlin.")
