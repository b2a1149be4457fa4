"""The times of a cron expression by the clock of a zone.

What cronsim does is what Debian's cron does when clocks change. Where hour and minute are named, a time that
the clock leaps over is run once, as the clock stands after the leap, and one that comes twice is run the
first time. Where the hour or the minute is `*` or `*/n`, time passes as on a stopwatch: what is leapt over is
not run, and what comes twice is run twice. (Where a clock changes by half an hour, on Lord Howe Island alone,
`*/n` hours may leave out the first hour after the change.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from store.errors import Invalid

FIELDS = "minute, hour, day of month, month and day of week"


class CronInvalid(Invalid):
    """Not a cron expression of five fields, or one that never comes true."""

    code = "cron_invalid"
    field = "cron"


def times(cron: str, zone: str, after: datetime) -> Iterator[datetime]:
    """The times after a moment, in UTC, each later than the one before. Raises CronInvalid."""
    last = after
    try:
        for local in CronSim(cron, after.astimezone(ZoneInfo(zone))):
            moment = local.astimezone(UTC)
            if moment > last:  # cronsim starts from the clock, which may show the same hour a second time
                last = moment
                yield moment
    except CronSimError as error:
        reason = str(error)
        raise CronInvalid(f"'{cron}' is not a cron expression: {reason[:1].lower()}{reason[1:]}.") from None


def next_time(cron: str, zone: str, after: datetime) -> datetime:
    """The first time after a moment, in UTC. Raises CronInvalid."""
    if len(cron.split()) != 5:
        raise CronInvalid(f"'{cron}' is not a cron expression: it has five fields, {FIELDS}.")
    found = next(times(cron, zone, after), None)
    if found is None:
        raise CronInvalid(f"'{cron}' never comes true: no date of the next 50 years is meant by it.")
    return found


def jittered(moment: datetime, schedule_id: str, most_seconds: int) -> datetime:
    """A moment up to so much later: by a hash, so that every scheduler says the same."""
    digest = hashlib.sha256(f"{schedule_id}:{moment.timestamp():.0f}".encode()).digest()
    return moment + timedelta(seconds=int.from_bytes(digest[:8], "big") % (most_seconds + 1))
