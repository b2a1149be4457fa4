"""Buckets of time: an interval cut at the minutes, hours, days, weeks or months of a zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from itertools import islice


class Width(StrEnum):
    """How long a bucket is, by the zone's clock: a day may have 23 or 25 hours. Weeks begin on Monday."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


def cut(start: datetime, end: datetime, width: Width, zone: tzinfo, limit: int) -> list[datetime]:
    """The moments in UTC between the first `limit` buckets of [start, end): its two ends and the cuts.

    The first and the last bucket may be shorter than the others, so that any width covers just the interval.
    """
    return [start.astimezone(UTC), *islice(_cuts(start, end, width, zone), limit)]


def around(moment: datetime, width: Width, zone: tzinfo) -> tuple[datetime, datetime]:
    """The bucket of a day or longer that holds a moment: its first moment and the next one's, in UTC."""
    day = moment.astimezone(zone).date()
    if width is Width.WEEK:
        day -= timedelta(days=day.weekday())
    elif width is Width.MONTH:
        day = day.replace(day=1)
    start = datetime.combine(day, time(), zone).astimezone(UTC)
    end = _next(start, width, zone)
    # Where clocks went back over midnight, a moment of the day's name may lie in the next one's bucket.
    while end <= moment:
        start, end = end, _next(end, width, zone)
    return start, end


def _cuts(start: datetime, end: datetime, width: Width, zone: tzinfo) -> Iterator[datetime]:
    moment, end = start.astimezone(UTC), end.astimezone(UTC)
    while moment < end:
        moment = min(_next(moment, width, zone), end)
        yield moment


def _next(moment: datetime, width: Width, zone: tzinfo) -> datetime:
    """The first cut after a moment (UTC)."""
    local = moment.astimezone(zone)
    if width in (Width.MINUTE, Width.HOUR):
        # Counted in real time: the hour that a clock shows twice is two hours.
        into = timedelta(seconds=local.second, microseconds=local.microsecond)
        into += timedelta(minutes=local.minute) if width is Width.HOUR else timedelta()
        length = timedelta(hours=1) if width is Width.HOUR else timedelta(minutes=1)
        return moment - into + length
    day = _first_day_after(local.date(), width)
    begins = datetime.combine(day, time(), zone).astimezone(UTC)
    # Where clocks went back over midnight, a day's first moment may lie before this one.
    return begins if begins > moment else begins + timedelta(days=1)


def _first_day_after(day: date, width: Width) -> date:
    if width is Width.WEEK:
        return day + timedelta(days=7 - day.weekday())
    if width is Width.MONTH:
        return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return day + timedelta(days=1)
