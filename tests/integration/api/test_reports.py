"""Usage, costs and savings over real HTTP: every form has the same figures, and every wrong query is told."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pyarrow.parquet
import pytest

from store.tenants import DEFAULT_TENANT
from tests.conftest import Api
from tests.support.bills import Table, bill, book, in_csv, in_parquet
from tests.support.report_queries import DAY, FORMULA, ask


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


@pytest.fixture
def booked(api: Api) -> list[dict[str, Any]]:
    """Seven bills on four of ten days: two models, two currencies, tags, and one without a price."""
    hour = timedelta(hours=1)
    full = {"full_cache_cost": Decimal("0.5"), "full_cache_devices": 3, "realised_saving": Decimal("-0.01")}
    rows = [
        bill(1, DAY, tags={"team": "red"}, scorer_quality=Decimal("0.97"), **full),
        bill(2, DAY + hour, tags={"team": FORMULA}, model="large", scorer_quality=Decimal("0.98")),
        bill(3, DAY + 2 * hour, cost=Decimal("123456789.0123456789"), scorer_quality=Decimal("0.98")),
        bill(4, DAY + 3 * hour, currency="EUR", cost=Decimal("2.5")),
        bill(5, DAY + timedelta(days=4), cost=None, waste_cost=None, tags={"team": 'a,"b"\nc'}),
        bill(6, DAY + timedelta(days=4, hours=2), outcome="lost", jobs=0, waste_cost=Decimal("0.0000000001")),
        bill(7, DAY + timedelta(days=9, hours=23, minutes=59)),
    ]
    outside = [bill(8, DAY - timedelta(microseconds=1)), bill(9, DAY + timedelta(days=10))]
    book(api, *rows, *outside)
    return rows


def flat(bucket: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    figures = {name: metric["value"] for name, metric in row["metrics"].items()}
    times = {name: bucket[name] for name in ("start_time", "end_time")}
    return {**times, **row["group"], "currency": row["currency"], **figures}


def in_json(response: httpx.Response) -> Table:
    return [flat(bucket, row) for bucket in response.json()["data"] for row in bucket["results"]]


def test_an_answer_is_a_page_of_buckets_with_figures(
    client: httpx.Client, booked: list[dict[str, Any]]
) -> None:
    body = ask(client, "/v1/costs", **{"group_by[]": "model"}).json()
    assert body["object"] == "page"
    assert (body["has_more"], body["next_page"]) == (False, None)
    assert datetime.fromisoformat(body["as_of"]) <= datetime.now(UTC) + timedelta(seconds=60)
    assert len(body["data"]) == 10
    first = body["data"][0]
    assert (first["start_time"], first["end_time"]) == ("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z")
    assert [(row["group"], row["currency"]) for row in first["results"]] == [
        ({"model": "large"}, "USD"),
        ({"model": "small"}, "EUR"),
        ({"model": "small"}, "USD"),
    ]
    assert first["results"][2]["metrics"] == {
        "jobs": {"value": "2", "unit": "job", "measurement": "measured"},
        "device_seconds": {"value": "73", "unit": "second", "measurement": "measured"},
        "cost": {"value": "123456789.0133595678", "unit": "USD", "measurement": "derived"},
        "cost_waste": {"value": "0", "unit": "USD", "measurement": "derived"},
        "device_seconds_unpriced": {"value": "0", "unit": "second", "measurement": "measured"},
    }
    assert [len(bucket["results"]) for bucket in body["data"]] == [3, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert body["data"][4]["results"][0]["metrics"]["device_seconds_unpriced"]["value"] == "36.5"


def test_savings_have_the_cost_side_beside_them(client: httpx.Client, booked: list[dict[str, Any]]) -> None:
    day = {"end_time": "2026-03-02T00:00:00Z", "filter[model]": "small"}
    euros, dollars = in_json(ask(client, "/v1/savings", **day))
    assert euros["saving_allocated"] is None
    assert euros["scorer_quality"] is None
    assert dollars == {
        "start_time": "2026-03-01T00:00:00Z",
        "end_time": "2026-03-02T00:00:00Z",
        "currency": "USD",
        "jobs": "2",
        "memory_saved_byte_seconds": "197530864219751086420.24691",
        "jobs_without_eviction": "0",
        "saving_allocated": None,
        "full_cache_cost": "0.5",
        "full_cache_devices_max": "3",
        "saving_realised": "-0.01",
        "jobs_with_full_cache_figure": "1",
        "cost": "123456789.0133595678",
        "device_seconds_score": "2.5",
        "scorer_quality": "0.975",
    }


def test_usage_has_no_money(client: httpx.Client, booked: list[dict[str, Any]]) -> None:
    [bucket] = ask(client, "/v1/usage", bucket_width="month").json()["data"]
    metrics = bucket["results"][0]["metrics"]
    assert {"jobs", "device_seconds", "tokens_read", "kv_byte_seconds", "peak_bytes_max"} <= set(metrics)
    assert not {"cost", "saving_allocated", "saving_realised", "full_cache_cost"} & set(metrics)


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/costs", "/v1/savings"])
@pytest.mark.parametrize("groups", [[], ["model", "tag:team"], ["outcome", "project"]], ids=str)
def test_every_form_has_the_same_figures(
    client: httpx.Client, booked: list[dict[str, Any]], path: str, groups: list[str]
) -> None:
    query = {"group_by[]": groups, "timezone": "Europe/Berlin"}
    page = ask(client, path, **query)
    expected = in_json(page)
    assert len(expected) >= 4
    empty = sum(not bucket["results"] for bucket in page.json()["data"])
    assert empty > 0

    lines = [
        json.loads(line) for line in ask(client, path, "application/x-ndjson", **query).text.splitlines()
    ]
    assert [flat(line, line) for line in lines if line["currency"]] == expected
    assert sum(line["currency"] is None for line in lines) == empty

    table = in_parquet(ask(client, path, "application/vnd.apache.parquet", **query))
    assert [row for row in table if row["currency"]] == expected
    assert sum(row["currency"] is None for row in table) == empty

    escaped = [
        {name: "'" + cell if cell == FORMULA else cell for name, cell in row.items()} for row in expected
    ]
    sheet = in_csv(ask(client, path, "text/csv", **query))
    assert [row for row in sheet if row["currency"]] == escaped
    assert sum(row["currency"] is None for row in sheet) == empty
    assert [list(row) for row in sheet] == [list(row) for row in table]
    assert [row["start_time"] for row in sheet] == [row["start_time"] for row in table]


def test_the_sum_over_groups_is_the_ungrouped_total(
    client: httpx.Client, booked: list[dict[str, Any]]
) -> None:
    def total(**params: Any) -> Decimal:
        rows = in_json(ask(client, "/v1/costs", **params))
        return sum((Decimal(row["cost"] or 0) for row in rows if row["currency"] == "USD"), Decimal(0))

    expected = sum((row["cost"] or 0 for row in booked if row["currency"] == "USD"), Decimal(0))
    assert expected > 0
    for params in (
        {"bucket_width": "month"},
        {"group_by": ["model", "outcome"], "bucket_width": "hour", "limit": 1500},
        {"group_by[]": "tag:team", "bucket_width": "week", "timezone": "Asia/Kathmandu"},
    ):
        assert total(**params) == expected, params


def test_text_is_quoted_and_cannot_be_a_formula_in_csv(
    api: Api, client: httpx.Client, booked: list[dict[str, Any]]
) -> None:
    starts = ["=1", "+1", "-1", "@x", "\tx", "\rx", "＝1", "plain"]
    book(api, *(bill(50 + i, DAY, tags={"team": text}) for i, text in enumerate(starts)))
    response = ask(client, "/v1/costs", "text/csv", **{"group_by[]": "tag:team"})
    lines = response.text.split("\r\n")
    assert lines[0].startswith("start_time,end_time,tag:team,currency,jobs,")
    assert lines[-1] == ""
    found = {row["tag:team"] for row in in_csv(response)}
    assert found >= {"'" + text for text in starts if text != "plain"} | {"plain", 'a,"b"\nc'}
    assert not found & {text for text in starts if text != "plain"}
    kept = {row["tag:team"] for row in in_json(ask(client, "/v1/costs", **{"group_by[]": "tag:team"}))}
    assert kept >= set(starts)


def test_negative_amounts_stay_numbers_in_csv(client: httpx.Client, booked: list[dict[str, Any]]) -> None:
    sheet = in_csv(ask(client, "/v1/savings", "text/csv"))
    assert "-0.01" in [row["saving_realised"] for row in sheet]


def test_parquet_has_decimals_and_times_with_a_zone(
    client: httpx.Client, booked: list[dict[str, Any]]
) -> None:
    response = ask(client, "/v1/costs", "application/vnd.apache.parquet", **{"group_by[]": "model"})
    schema = pyarrow.parquet.read_schema(io.BytesIO(response.content))
    assert {field.name: str(field.type) for field in schema} == {
        "start_time": "timestamp[us, tz=UTC]",
        "end_time": "timestamp[us, tz=UTC]",
        "model": "string",
        "currency": "string",
        "jobs": "decimal128(38, 6)",
        "device_seconds": "decimal128(38, 6)",
        "cost": "decimal128(38, 10)",
        "cost_waste": "decimal128(38, 10)",
        "device_seconds_unpriced": "decimal128(38, 6)",
    }


def test_a_day_when_clocks_change_is_one_bucket_of_23_hours(api: Api, client: httpx.Client) -> None:
    midnight = datetime(2026, 3, 28, 23, tzinfo=UTC)  # in Berlin the 29th begins
    book(api, *(bill(n, midnight + timedelta(hours=n)) for n in range(-1, 25)))
    berlin = {"start_time": "2026-03-28T00:00:00+01:00", "end_time": "2026-03-31T00:00:00+02:00"}
    buckets = ask(client, "/v1/usage", timezone="Europe/Berlin", **berlin).json()["data"]
    assert [(one["start_time"], one["results"][0]["metrics"]["jobs"]["value"]) for one in buckets] == [
        ("2026-03-27T23:00:00Z", "1"),
        ("2026-03-28T23:00:00Z", "23"),
        ("2026-03-29T22:00:00Z", "2"),
    ]
    hours = ask(client, "/v1/usage", timezone="Europe/Berlin", bucket_width="hour", **berlin).json()["data"]
    assert len(hours) == 24 + 23 + 24


def test_filters_take_any_of_their_values(client: httpx.Client, booked: list[dict[str, Any]]) -> None:
    def jobs(**params: Any) -> list[str]:
        rows = in_json(ask(client, "/v1/usage", bucket_width="month", **params))
        return [f"{row['jobs']} {row['currency']}" for row in rows]

    assert jobs() == ["1 EUR", "5 USD"]
    assert jobs(**{"filter[model]": "large"}) == ["1 USD"]
    assert jobs(**{"filter[model]": ["large", "small"]}) == ["1 EUR", "5 USD"]
    assert jobs(**{"filter[model]": "large", "filter[tag:team]": "red"}) == []
    assert jobs(**{"filter[tag:team]": ["red", FORMULA]}) == ["2 USD"]
    assert jobs(**{"filter[tenant]": "ten_other"}) == []


def test_another_tenants_bills_are_in_no_form_of_no_report(api: Api, booked: list[dict[str, Any]]) -> None:
    with api.client(api.new_key("ten_other")) as stranger:
        book(api, bill(70, DAY, tenant_id="ten_other", cost=Decimal("7")))
        for path in ("/v1/usage", "/v1/costs", "/v1/savings"):
            for filters in ({}, {"filter[tenant]": [DEFAULT_TENANT, "ten_other"]}):
                [row] = in_json(ask(stranger, path, **{"group_by[]": "tenant"}, **filters))
                assert (row["tenant"], row["jobs"]) == ("ten_other", "1")
        charges = ask(stranger, "/v1/exports/focus", "text/csv")
        assert [row["ResourceId"] for row in in_csv(charges)] == ["job_70"]
