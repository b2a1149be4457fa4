"""The times of a cron expression in a time zone.

When clocks change, cronsim does what Debian's cron does. With a fixed hour and minute, a time that the clock
skips runs once, right after the change, and a time that occurs twice runs the first time only. With `*` or
`*/n` as the hour or minute, real time counts: skipped times do not run, and repeated ones run twice. (On Lord
Howe Island, where clocks change by half an hour, `*/n` hours may miss the first hour after the change.)
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
    """Not a cron expression of five fields, or one that never fires."""

    code = "cron_invalid"
    field = "cron"


def times(cron: str, zone: str, after: datetime) -> Iterator[datetime]:
    """The times after a moment, in UTC, strictly increasing. Raises CronInvalid."""
    last = after
    try:
        for local in CronSim(cron, after.astimezone(ZoneInfo(zone))):
            moment = local.astimezone(UTC)
            if moment > last:  # cronsim starts from local time, which may repeat an hour
                last = moment
                yield moment
    except CronSimError as error:
        reason = str(error)
        raise CronInvalid(f"'{cron}' is not a cron expression: {reason[:1].lower()}{reason[1:]}.") from None


def next_time(cron: str, zone: str, after: datetime) -> datetime:
    """The first time after a moment, in UTC. Raises CronInvalid."""
    if len(cron.split()) != 5:
        raise CronInvalid(f"'{cron}' is not a cron expression: five fields are required, {FIELDS}.")
    found = next(times(cron, zone, after), None)
    if found is None:
        raise CronInvalid(f"'{cron}' never fires: it matches no date in the next 50 years.")
    return found


def jittered(moment: datetime, schedule_id: str, most_seconds: int) -> datetime:
    """The moment delayed by up to `most_seconds`; by a hash, so that all schedulers agree."""
    digest = hashlib.sha256(f"{schedule_id}:{moment.timestamp():.0f}".encode()).digest()
    return moment + timedelta(seconds=int.from_bytes(digest[:8], "big") % (most_seconds + 1))
