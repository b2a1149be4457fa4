"""Queries of reports: pages, cursors, forms, and what is refused, over real HTTP."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from store.billing import reports
from tests.conftest import Api, problem
from tests.support.bills import bill, book, in_csv
from tests.support.report_queries import DAY, FORMULA, INTERVAL, ask

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
