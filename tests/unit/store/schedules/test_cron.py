"""The times of cron expressions when clocks change, and in zones with odd offsets."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.schedules import cron
from store.schedules.cron import CronInvalid

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
ZONES = [BERLIN, NEW_YORK, "UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Apia"]


def local(zone: str, expression: str, start: str, count: int) -> list[str]:
    """The first times after a moment of the zone's clock, as that clock shows them, with the offset."""
    after = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone))
    found = list(islice(cron.times(expression, zone, after), count))
    assert all(one.tzinfo is UTC for one in found)
    return [one.astimezone(ZoneInfo(zone)).strftime("%d %H:%M %z") for one in found]


# In spring the clock leaps from 2:00 to 3:00; in autumn 3:00 (Berlin) or 2:00 (New York) is an hour earlier.
CHANGES = [
    (BERLIN, "30 2 * * *", "2026-03-28T00:00", ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
    (BERLIN, "30 2 * * *", "2026-10-24T00:00", ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"]),
    (NEW_YORK, "30 2 * * *", "2026-03-07T00:00", ["07 02:30 -0500", "08 03:00 -0400", "09 02:30 -0400"]),
    (NEW_YORK, "30 1 * * *", "2026-10-31T00:00", ["31 01:30 -0400", "01 01:30 -0400", "02 01:30 -0500"]),
    # Two times that fall together after the leap are one.
    (BERLIN, "0,30 2,3 * * *", "2026-03-29T00:00", ["29 03:00 +0200", "29 03:30 +0200", "30 02:00 +0200"]),
    # Any hour: one real hour after the other.
    (BERLIN, "0 * * * *", "2026-03-29T00:30", ["29 01:00 +0100", "29 03:00 +0200", "29 04:00 +0200"]),
    (BERLIN, "0 * * * *", "2026-10-25T01:30", ["25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100"]),
    (NEW_YORK, "0 * * * *", "2026-03-08T00:30", ["08 01:00 -0500", "08 03:00 -0400", "08 04:00 -0400"]),
    (NEW_YORK, "0 * * * *", "2026-11-01T00:30", ["01 01:00 -0400", "01 01:00 -0500", "01 02:00 -0500"]),
    (BERLIN, "0 */2 * * *", "2026-03-28T23:00", ["29 00:00 +0100", "29 04:00 +0200", "29 06:00 +0200"]),
    (BERLIN, "*/30 2 * * *", "2026-03-28T23:00", ["30 02:00 +0200", "30 02:30 +0200", "31 02:00 +0200"]),
    # Odd offsets, a change by half an hour, and a day that did not exist.
    ("Asia/Kathmandu", "0 6 * * *", "2026-03-28T00:00", ["28 06:00 +0545", "29 06:00 +0545"]),
    ("America/St_Johns", "0 6 * * MON", "2026-03-07T00:00", ["09 06:00 -0230", "16 06:00 -0230"]),
    ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T00:00", ["03 02:15 +1030", "04 02:30 +1100"]),
    ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T00:00", ["04 01:45 +1100", "05 01:45 +1100"]),
    ("Australia/Lord_Howe", "0 * * * *", "2026-10-04T00:30", ["04 01:00 +1030", "04 03:00 +1100"]),
    (
        "Pacific/Apia",
        "0 12 * * *",
        "2011-12-29T00:00",
        ["29 12:00 -1000", "31 00:00 +1400", "31 12:00 +1400"],
    ),
]


@pytest.mark.parametrize(("zone", "expression", "start", "expected"), CHANGES)
def test_times_when_clocks_change(zone: str, expression: str, start: str, expected: list[str]) -> None:
    assert local(zone, expression, start, len(expected)) == expected


@pytest.mark.parametrize("minute", [0, 15, 30, 45])
def test_from_within_the_hour_that_comes_twice_nothing_is_run_again(minute: int) -> None:
    second = datetime(2026, 10, 25, 2, minute, tzinfo=ZoneInfo(BERLIN), fold=1).astimezone(UTC)
    following = cron.next_time("30 2 * * *", BERLIN, second)
    assert following == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


EXPRESSIONS = ["* * * * *", "0 * * * *", "*/7 */3 * * *", "30 2 * * *", "0,30 1-3 * * *", "5 0 1,15 * MON"]


@given(st.sampled_from(ZONES), st.sampled_from(EXPRESSIONS), st.integers(0, 2 * 366 * 24 * 60))
def test_times_only_grow_and_do_not_depend_on_where_one_starts(
    zone: str, expression: str, minute: int
) -> None:
    after = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    together = list(islice(cron.times(expression, zone, after), 12))
    assert after < together[0]
    assert together == sorted(set(together))
    assert list(_one_by_one(zone, expression, after)) == together


def _one_by_one(zone: str, expression: str, after: datetime) -> Iterator[datetime]:
    """As the scheduler goes: each time is looked for from the one before."""
    for _ in range(12):
        after = cron.next_time(expression, zone, after)
        yield after


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("* * * *", "five fields"),
        ("0 0 6 * * *", "five fields"),
        ("@daily", "five fields"),
        ("60 * * * *", "bad minute"),
        ("0 0 * * FUNDAY", "bad day-of-week"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("0 0 31 4,6,9,11 *", "bad day-of-month"),
    ],
)
def test_what_is_no_cron_expression_or_never_comes_true_is_refused(expression: str, words: str) -> None:
    with pytest.raises(CronInvalid, match=words):
        cron.next_time(expression, BERLIN, datetime(2026, 1, 1, tzinfo=UTC))


def test_one_that_waits_for_a_leap_year_comes_and_one_whose_days_never_meet_is_refused() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert cron.next_time("0 0 * 2 FRI#5", "UTC", start) == datetime(2036, 2, 29, tzinfo=UTC)
    with pytest.raises(CronInvalid, match="never fires"):
        cron.next_time("0 0 */31 * MON#2", "UTC", start)  # the first of a month is never its second Monday


@given(st.text(min_size=1, max_size=20), st.integers(0, 86_400), st.integers(0, 2**31))
def test_jitter_is_bounded_and_the_same_again(schedule: str, most: int, second: int) -> None:
    moment = datetime.fromtimestamp(second, UTC)
    found = cron.jittered(moment, schedule, most)
    assert moment <= found <= moment + timedelta(seconds=most)
    assert cron.jittered(moment.astimezone(ZoneInfo(BERLIN)), schedule, most) == found


def test_jitter_spreads_runs() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert len({cron.jittered(moment, f"sch_{n}", 3600) for n in range(100)}) > 80
