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

from store.billing import reports
from store.tenants import DEFAULT_TENANT
from tests.conftest import Api, problem
from tests.support.bills import Table, bill, book, in_csv, in_parquet

DAY = datetime(2026, 3, 1, tzinfo=UTC)
INTERVAL = {"start_time": "2026-03-01T00:00:00Z", "end_time": "2026-03-11T00:00:00Z"}
FORMULA = '=HYPERLINK("http://evil.example")'
Params = dict[str, Any]


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


def ask(client: httpx.Client, path: str, accept: str = "application/json", **params: Any) -> httpx.Response:
    response = client.get(path, params={**INTERVAL, **params}, headers={"accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].partition(";")[0] == accept
    return response


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


def test_pages_join_to_the_whole_and_bills_booked_meanwhile_stay_out(
    api: Api, client: httpx.Client, booked: list[dict[str, Any]]
) -> None:
    query = {"group_by[]": "model", "end_time": "2999-01-01T00:00:00Z", "bucket_width": "month"}
    whole = ask(client, "/v1/costs", limit=24, **query).json()["data"]
    found: list[dict[str, Any]] = []
    as_of = set()
    page: Params = {}
    while len(found) < 20:
        body = ask(client, "/v1/costs", limit=7, **query, **page).json()
        found += body["data"]
        as_of.add(body["as_of"])
        assert body["has_more"] is True
        page = {"page": body["next_page"]}
        book(api, bill(100 + len(found), datetime.now(UTC)))
    assert found == whole[:21]
    assert len(as_of) == 1


def test_the_last_page_says_so_also_where_the_end_was_left_out(api: Api, client: httpx.Client) -> None:
    now = datetime.now(UTC)
    start = {"start_time": (now - timedelta(hours=30)).isoformat(), "end_time": []}
    buckets: list[dict[str, Any]] = []
    page: Params = {}
    for _ in range(40):
        body = ask(client, "/v1/usage", bucket_width="hour", limit=10, **start, **page).json()
        buckets += body["data"]
        page = {"page": body["next_page"]}
        if not body["has_more"]:
            break
    assert body["next_page"] is None
    assert buckets[-1]["end_time"] == body["as_of"]
    assert [one["end_time"] for one in buckets[:-1]] == [one["start_time"] for one in buckets[1:]]


def test_as_of_repeats_an_answer(api: Api, client: httpx.Client, booked: list[dict[str, Any]]) -> None:
    first = ask(client, "/v1/costs", as_of="2026-03-05T01:00:00Z").json()
    assert [len(bucket["results"]) for bucket in first["data"]] == [2, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert first["as_of"] == "2026-03-05T01:00:00Z"
    csv_too = ask(client, "/v1/costs", "text/csv", as_of="2026-03-05T01:00:00Z")
    assert csv_too.headers["x-as-of"] == first["as_of"]
    ahead = ask(client, "/v1/costs", as_of="2999-01-01T00:00:00Z").json()
    assert ahead["as_of"] < "2999"


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


REFUSED: list[tuple[Params, str, str]] = [
    ({"group_by[]": "colour"}, "unknown_group", "group_by[]"),
    ({"group_by": ["model", "tenant_id"]}, "unknown_group", "group_by[]"),
    ({"group_by[]": "tag:"}, "unknown_group", "group_by[]"),
    ({"filter[colour]": "blue"}, "unknown_group", "filter[colour]"),
    ({"group_by[]": ["model"] * 17}, "invalid_request", "group_by[]"),
    ({"group_by": ["model"] * 17}, "invalid_request", "group_by[]"),
    ({"timezone": "Mars/Olympus"}, "unknown_timezone", "timezone"),
    ({"timezone": "../../etc/passwd"}, "unknown_timezone", "timezone"),
    ({"timezone": "Europe"}, "unknown_timezone", "timezone"),
    ({"timezone": ""}, "unknown_timezone", "timezone"),
    ({"timezone": "x" * 5000}, "unknown_timezone", "timezone"),
    ({"colour": "blue"}, "unknown_parameter", "colour"),
    ({"filter[]": "x"}, "unknown_parameter", "filter[]"),
    ({"filter": "x"}, "unknown_parameter", "filter"),
    ({"metrics[]": "cost"}, "unknown_parameter", "metrics[]"),
    ({"timezone": ["UTC", "Europe/Berlin"]}, "invalid_request", "timezone"),
    ({"filter[model]": "a\0b"}, "invalid_request", "filter[model]"),
    ({"start_time": "2026-03-01"}, "invalid_request", "start_time"),
    ({"start_time": "2026-03-01T00:00:00"}, "invalid_request", "start_time"),
    ({"start_time": "2026-02-30T00:00:00Z"}, "invalid_request", "start_time"),
    ({"start_time": "1772323200"}, "invalid_request", "start_time"),
    ({"start_time": "0001-01-01T00:00:00Z"}, "invalid_request", "start_time"),
    ({"start_time": "0001-01-01T00:00:00+14:00"}, "invalid_request", "start_time"),
    ({"start_time": []}, "invalid_request", "start_time"),
    ({"end_time": "9999-12-31T23:59:59Z"}, "invalid_request", "end_time"),
    ({"end_time": "2026-03-01T00:00:00Z"}, "invalid_request", "end_time"),
    ({"end_time": [], "as_of": "2020-01-01T00:00:00Z"}, "invalid_request", "end_time"),
    ({"as_of": "yesterday"}, "invalid_request", "as_of"),
    ({"bucket_width": "1d"}, "invalid_request", "bucket_width"),
    ({"limit": 0}, "invalid_request", "limit"),
    ({"limit": 1501}, "invalid_request", "limit"),
    ({"page": "x"}, "invalid_cursor", "page"),
    ({"page": ""}, "invalid_cursor", "page"),
    ({"page": "ä"}, "invalid_cursor", "page"),
    ({"page": "A" * 1000}, "invalid_cursor", "page"),
]


@pytest.mark.parametrize(("params", "code", "field"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_a_wrong_query_is_told_what_is_wrong_with_it(
    refusing_api: Api, params: Params, code: str, field: str
) -> None:
    with refusing_api.client() as client:
        for path in ("/v1/usage", "/v1/costs", "/v1/savings"):
            body = problem(client.get(path, params={**INTERVAL, **params}), 422, code, field)
            if code == "unknown_group":
                assert all(name in body["detail"] for name in (*reports.GROUPS, "tag:<key>"))


def test_a_cursor_belongs_to_its_query(api: Api, client: httpx.Client) -> None:
    query = {**INTERVAL, "limit": 3, "group_by[]": "model"}
    page = client.get("/v1/costs", params=query).json()["next_page"]
    assert client.get("/v1/costs", params={**query, "page": page, "limit": 2}).status_code == 200
    for other in (
        {"group_by[]": "project"},
        {"filter[model]": "small"},
        {"timezone": "Europe/Berlin"},
        {"bucket_width": "hour"},
        {"start_time": "2026-03-02T00:00:00Z"},
        {"as_of": "2026-03-09T00:00:00Z"},
        {"page": page[:-4] + "AAAA"},
        {"page": page + "AAAA"},
    ):
        response = client.get("/v1/costs", params={**query, "page": page, **other})
        problem(response, 422, "invalid_cursor", "page")
    problem(client.get("/v1/usage", params={**query, "page": page}), 422, "invalid_cursor", "page")
    with api.client(api.new_key("ten_other")) as stranger:
        problem(stranger.get("/v1/costs", params={**query, "page": page}), 422, "invalid_cursor", "page")


def test_a_file_has_no_pages_and_an_end(refusing_api: Api) -> None:
    headers = {"accept": "text/csv"}
    with refusing_api.client() as client:
        for params, code, field in (
            ({"limit": 5}, "invalid_request", "limit"),
            ({"page": "x"}, "invalid_request", "page"),
            (
                {"end_time": "2027-01-01T00:00:00Z", "bucket_width": "minute"},
                "too_many_buckets",
                "bucket_width",
            ),
        ):
            response = client.get("/v1/usage", params={**INTERVAL, **params}, headers=headers)
            problem(response, 422, code, field)


def test_a_file_goes_on_past_a_page(client: httpx.Client, booked: list[dict[str, Any]]) -> None:
    sheet = in_csv(ask(client, "/v1/costs", "text/csv", bucket_width="minute"))
    assert len({row["start_time"] for row in sheet}) == 10 * 24 * 60
    assert sum(Decimal(row["jobs"] or 0) for row in sheet) == sum(row["jobs"] for row in booked)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("text/*", "text/csv"),
        ("text/csv;q=0.5, application/x-ndjson", "application/x-ndjson"),
        ("application/json;q=0, */*;q=0.1", "text/csv"),
        ("Text/CSV; header=present", "text/csv"),
        ("image/png, application/vnd.apache.parquet;q=0.1", "application/vnd.apache.parquet"),
    ],
)
def test_the_form_is_the_one_that_is_liked_best(refusing_api: Api, accept: str, expected: str) -> None:
    with refusing_api.client() as client:
        response = client.get("/v1/usage", params=INTERVAL, headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == expected


@pytest.mark.parametrize(
    "accept", ["image/png", "text/html", "application/json;q=0", "*/*;q=0", "text/csv;q=x"]
)
def test_a_form_that_there_is_not_is_refused(refusing_api: Api, accept: str) -> None:
    with refusing_api.client() as client:
        response = client.get("/v1/usage", params=INTERVAL, headers={"accept": accept})
        body = problem(response, 406, "not_acceptable", "Accept")
        assert "text/csv" in body["detail"]
        focus = client.get("/v1/exports/focus", params=INTERVAL, headers={"accept": "application/json"})
        problem(focus, 406, "not_acceptable", "Accept")


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/costs", "/v1/savings", "/v1/exports/focus"])
def test_reports_need_a_key(refusing_api: Api, path: str) -> None:
    with refusing_api.client("") as client:
        problem(client.get(path, params=INTERVAL), 401, "api_key_missing")


def test_too_many_rows_are_refused_in_a_page_and_read_piece_by_piece_into_a_file(
    client: httpx.Client, booked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = in_csv(ask(client, "/v1/costs", "text/csv", **{"group_by[]": "model"}))
    monkeypatch.setattr(reports, "MOST_ROWS", 3)
    params = {**INTERVAL, "group_by[]": "model"}
    problem(client.get("/v1/costs", params=params), 422, "too_many_rows", "group_by")
    assert in_csv(ask(client, "/v1/costs", "text/csv", **{"group_by[]": "model"})) == whole
