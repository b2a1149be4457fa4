"""Time buckets: an interval cut at the minutes, hours, days, weeks or months of a time zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from itertools import islice


class Width(StrEnum):
    """Width of a bucket in local time: a day may have 23 or 25 hours. Weeks start on Monday."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


def cut(start: datetime, end: datetime, width: Width, zone: tzinfo, limit: int) -> list[datetime]:
    """The edges, in UTC, of the first `limit` buckets of [start, end).

    The first and the last bucket may be shorter than the others, so that they cover exactly the interval.
    """
    return [start.astimezone(UTC), *islice(_cuts(start, end, width, zone), limit)]


def around(moment: datetime, width: Width, zone: tzinfo) -> tuple[datetime, datetime]:
    """Start and end, in UTC, of the day, week or month that contains a moment."""
    day = moment.astimezone(zone).date()
    if width is Width.WEEK:
        day -= timedelta(days=day.weekday())
    elif width is Width.MONTH:
        day = day.replace(day=1)
    start = datetime.combine(day, time(), zone).astimezone(UTC)
    end = _next(start, width, zone)
    # Where clocks went back over midnight, a moment with this date may belong to the next bucket.
    while end <= moment:
        start, end = end, _next(end, width, zone)
    return start, end


def _cuts(start: datetime, end: datetime, width: Width, zone: tzinfo) -> Iterator[datetime]:
    moment, end = start.astimezone(UTC), end.astimezone(UTC)
    while moment < end:
        moment = min(_next(moment, width, zone), end)
        yield moment


def _next(moment: datetime, width: Width, zone: tzinfo) -> datetime:
    """The first edge after a moment (UTC)."""
    local = moment.astimezone(zone)
    if width in (Width.MINUTE, Width.HOUR):
        # In real time: the hour that a clock shows twice is two buckets.
        into = timedelta(seconds=local.second, microseconds=local.microsecond)
        into += timedelta(minutes=local.minute) if width is Width.HOUR else timedelta()
        length = timedelta(hours=1) if width is Width.HOUR else timedelta(minutes=1)
        return moment - into + length
    day = _first_day_after(local.date(), width)
    begins = datetime.combine(day, time(), zone).astimezone(UTC)
    # Where clocks went back over midnight, the start of a day may lie before this moment.
    return begins if begins > moment else begins + timedelta(days=1)


def _first_day_after(day: date, width: Width) -> date:
    if width is Width.WEEK:
        return day + timedelta(days=7 - day.weekday())
    if width is Width.MONTH:
        return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return day + timedelta(days=1)
