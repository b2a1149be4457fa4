"""Reports add up: groups to the total, buckets of any width to the same, jobs' bills to the report."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text, update

from store import tenants
from store.billing import bills, ledger, reports
from store.billing.time_buckets import Width, cut
from store.database import Database
from store.jobs import leases
from store.tables.billing import Bill
from store.tables.job_states import State
from store.tables.jobs import Job
from tests.unit.store.conftest import HOLDER

Submit = Callable[..., Job]
SPRING = datetime(2026, 3, 29, tzinfo=UTC)  # Europe's clocks go forward
LORD_HOWE = "Australia/Lord_Howe"  # its clocks change by half an hour
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", LORD_HOWE, "America/Santiago"]


@settings(deadline=None)
@given(
    start=st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
    days=st.integers(1, 400),
    width=st.sampled_from([Width.HOUR, Width.DAY, Width.WEEK, Width.MONTH]),
    zone=st.sampled_from(ZONES),
)
def test_buckets_cover_the_interval_without_gap_or_overlap(
    start: datetime, days: int, width: Width, zone: str
) -> None:
    end = start + timedelta(days=days)
    edges = cut(start, end, width, ZoneInfo(zone), 100_000)
    assert (edges[0], edges[-1]) == (start, end)
    assert all(before < after for before, after in pairwise(edges))
    local = [edge.astimezone(ZoneInfo(zone)) for edge in edges[1:-1]]
    if (width, zone) != (Width.HOUR, LORD_HOWE):
        assert all((moment.minute, moment.second) == (0, 0) for moment in local)
    if width is Width.DAY:
        assert len(edges) - 1 in range(days, days + 3)
    if width is Width.MONTH:
        assert all(moment.day == 1 for moment in local)


def test_a_day_of_a_clock_change_has_23_or_25_hours() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for day, hours in (
        (datetime(2026, 3, 29, tzinfo=berlin), 23),
        (datetime(2026, 10, 25, tzinfo=berlin), 25),
    ):
        end = (day + timedelta(days=1)).replace(tzinfo=berlin)
        [start, after] = cut(day, end, Width.DAY, berlin, 10)
        assert after - start == timedelta(hours=hours)
        assert len(cut(day, end, Width.HOUR, berlin, 100)) - 1 == hours


@pytest.fixture
def booked(db: Database, tenant: str) -> list[dict[str, object]]:
    """Three hundred bills around a clock change."""
    rng = random.Random(3)
    rows: list[dict[str, object]] = [
        {
            "job_id": f"job_{i}",
            "attempt": 1,
            "tenant_id": tenant,
            "booked_at": SPRING + timedelta(seconds=rng.uniform(-40, 40) * 86400),
            "project": rng.choice(["alpha", "beta"]),
            "model": rng.choice(["small", "large"]),
            "scorer": rng.choice(["namm@1", "namm@2", None]),
            "priority": rng.choice([0, 5]),
            "device_type": "cpu",
            "outcome": "succeeded",
            "tags": rng.choice([{}, {"team": "red"}, {"team": "blue"}]),
            "currency": rng.choice(["USD", "USD", "EUR"]),
            "price_book_id": "prc_placeholder",
            "jobs": 1,
            "attempts": 1,
            "device_seconds": Decimal(rng.randrange(10**9)) / 10**6,
            "tokens_read": rng.randrange(10**6),
            "cost": None if rng.random() < 0.1 else Decimal(rng.randrange(10**12)) / 10**10,
            "peak_bytes": rng.randrange(10**9),
        }
        for i in range(300)
    ]
    with db.session() as session:
        session.execute(insert(Bill), rows)
    return rows


def sums(report: reports.Report, metric: str) -> dict[str, Decimal]:
    totals: dict[str, Decimal] = {}
    for bucket in report.buckets:
        for row in bucket.rows:
            totals[row.currency] = totals.get(row.currency, Decimal(0)) + (row.values[metric] or 0)
    return totals


def ask(db: Database, tenant: str, **asked: object) -> reports.Report:
    query: dict[str, object] = {
        "tenant_id": tenant,
        "start": SPRING - timedelta(days=30),
        "end": SPRING + timedelta(days=30),
        "limit": 100_000,
    }
    with db.session() as session:
        return reports.run(session, reports.Query(**(query | asked)))  # type: ignore[arg-type]


def test_any_width_zone_and_grouping_gives_the_same_sums(
    db: Database, tenant: str, booked: list[dict[str, object]]
) -> None:
    whole = ask(db, tenant)
    inside = [row for row in booked if abs(row["booked_at"] - SPRING) < timedelta(days=30)]  # type: ignore[operator]
    for metric, column in (("cost", "cost"), ("device_seconds", "device_seconds"), ("jobs", "jobs")):
        expected: dict[object, Decimal] = {}
        for row in inside:
            expected[row["currency"]] = expected.get(row["currency"], Decimal(0)) + (row[column] or 0)  # type: ignore[operator]
        assert sums(whole, metric) == expected
        for zone in ZONES:
            for width in (Width.HOUR, Width.DAY, Width.WEEK, Width.MONTH):
                report = ask(db, tenant, width=width, zone=ZoneInfo(zone))
                assert sums(report, metric) == expected, (metric, width, zone)
        for groups in (
            ("project",),
            ("model", "scorer_version"),
            ("tag:team", "priority"),
            tuple(reports.GROUPS),
        ):
            assert sums(ask(db, tenant, group_by=groups), metric) == expected, groups
    [bucket] = whole.buckets
    largest = max(row["peak_bytes"] for row in inside)  # type: ignore[type-var]
    assert max(row.values["peak_bytes_max"] or 0 for row in bucket.rows) == largest


def test_time_without_a_price_is_told(db: Database, tenant: str, booked: list[dict[str, object]]) -> None:
    unpriced = sum(
        row["device_seconds"]  # type: ignore[misc]
        for row in booked
        if row["cost"] is None and abs(row["booked_at"] - SPRING) < timedelta(days=30)  # type: ignore[operator]
    )
    assert unpriced > 0
    assert sum(sums(ask(db, tenant), reports.UNPRICED).values()) == unpriced


def test_start_is_inclusive_and_end_exclusive_and_empty_buckets_stay(
    db: Database, tenant: str, booked: list[dict[str, object]]
) -> None:
    moment = min(row["booked_at"] for row in booked)  # type: ignore[type-var]
    second = timedelta(microseconds=1)
    assert sums(ask(db, tenant, start=moment, end=moment + second), "jobs") != {}  # type: ignore[operator]
    assert sums(ask(db, tenant, start=moment - second, end=moment), "jobs") == {}  # type: ignore[operator]
    early = datetime(2020, 1, 1, tzinfo=UTC)
    report = ask(db, tenant, start=early, end=early + timedelta(days=3), width=Width.DAY)
    assert [bucket.rows for bucket in report.buckets] == [[], [], []]


def test_pages_join_to_the_whole(db: Database, tenant: str, booked: list[dict[str, object]]) -> None:
    whole = ask(db, tenant, width=Width.DAY)
    start: datetime | None = SPRING - timedelta(days=30)
    found: list[reports.Bucket] = []
    while start is not None:
        page = ask(db, tenant, width=Width.DAY, start=start, limit=7, as_of=whole.as_of)
        found += page.buckets
        start = page.next_start
    assert found == whole.buckets


def test_as_of_repeats_a_report(db: Database, tenant: str, booked: list[dict[str, object]]) -> None:
    early = ask(db, tenant, as_of=SPRING)
    assert sums(early, "jobs") == sums(ask(db, tenant, end=SPRING), "jobs")


def test_filters_and_unknown_groups(db: Database, tenant: str, booked: list[dict[str, object]]) -> None:
    everything = ask(db, tenant, group_by=("model",))
    only = ask(db, tenant, group_by=("model",), filters={"model": ["small"], "priority": ["0", "5"]})
    assert only.buckets[0].rows == [
        row for row in everything.buckets[0].rows if row.group["model"] == "small"
    ]
    for wrong in ("colour", "tag:", "tenant_id"):
        with pytest.raises(reports.UnknownGroup, match=r"project.*tag:<key>"):
            ask(db, tenant, group_by=(wrong,))


def test_another_tenants_bills_are_not_seen(db: Database, booked: list[dict[str, object]]) -> None:
    with db.session() as session:
        stranger = tenants.ensure(session, "ten_other", "other")
    assert sums(ask(db, stranger), "jobs") == {}
    assert sum(sums(ask(db, None), "jobs").values()) > 0  # type: ignore[arg-type]


def test_job_bills_sum_to_the_report_and_a_rebuild_changes_nothing(
    db: Database, tenant: str, submit: Submit
) -> None:
    rng = random.Random(1)
    ids = []
    for i in range(12):
        ids.append(submit(cache_budget=64, tags={"n": str(i % 2)}).id)
        with db.session() as session:
            [job] = leases.claim(session, ["small"], HOLDER, limit=1, lease_seconds=30)
            assert job.lease_token is not None
            usage = {
                "seconds": {"read": rng.uniform(0, 99), "score": rng.uniform(0, 9), "answer": 1.1},
                "tokens_document": 5000,
                "tokens_read": 5000,
                "peak_bytes": 10,
                "dense_bytes": 2**34,
                "kv_byte_seconds": 1e9,
                "dense_byte_seconds": 1e12,
                "budget": 64,
            }
            pinned = {"model_revision": "r", "scorer": "namm@1", "scorer_sha256": "ab"}
            leases.pin(session, job.id, job.lease_token, **pinned, scorer_quality=Decimal("0.97"))
            if i % 3 == 0:
                leases.release(session, job.id, job.lease_token, usage=usage, lost=True)
                [job] = leases.claim(session, ["small"], HOLDER, limit=1, lease_seconds=30)
                assert job.lease_token is not None
            state = State.FAILED if i == 5 else State.SUCCEEDED
            if state is State.SUCCEEDED:
                leases.finalize(session, job.id, job.lease_token)
            leases.finish(session, job.id, job.lease_token, state, usage=usage, code="x", message="x")
    with db.session() as session:
        costs = [ledger.cost(session, tenant, job_id) for job_id in ids]
        now = datetime.now(UTC)
        query = reports.Query(tenant, now - timedelta(hours=1), now + timedelta(hours=1))
        [bucket] = reports.run(session, query).buckets
        [row] = bucket.rows
    for metric, figure in (
        ("cost", "cost"),
        ("cost_waste", "cost.waste"),
        ("device_seconds", "device_seconds"),
        ("saving_allocated", "saving.allocated"),
        ("full_cache_cost", "full_cache.cost"),
        ("saving_realised", "saving.realised"),
    ):
        found = [one.quantity for cost in costs for one in cost.summary if one.name == figure]
        assert row.values[metric] == sum(found, Decimal(0)) != 0, metric
    for cost in costs:
        [total] = [one.quantity for one in cost.summary if one.name == "cost"]
        assert total == sum((line.amount for line in cost.lines if line.amount is not None), Decimal(0))
    assert (row.values["jobs"], row.values["attempts"]) == (12, 16)
    assert row.values[reports.REALISED_JOBS] == 11
    assert row.values["tokens_document"] == 12 * 5000
    assert row.values["full_cache_devices_max"] == 4, "16 GiB of cache and 10 GiB of weights on 8 GiB each"
    everything = text("SELECT * FROM bills ORDER BY job_id, attempt")
    with db.session() as session:
        before = session.execute(everything).all()
        session.execute(update(Bill).values(cost=7, model="wrong"))
        assert bills.rebuild(session, jobs_at_once=3) == len(before) == 16
        assert session.execute(everything).all() == before


def test_a_page_of_too_many_rows_is_refused(
    db: Database, tenant: str, booked: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MOST_ROWS", 10)
    assert len(ask(db, tenant, group_by=("project",)).buckets[0].rows) == 4
    with pytest.raises(reports.TooManyRows, match="more than 10 rows"):
        ask(db, tenant, group_by=("project", "model", "scorer_version"))
