"""The FOCUS export over real HTTP: rows are what the specification asks for and add up to the report."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from api.http import tabular
from api.reports import exports
from store.billing import prices
from store.tables.jobs import Attempt
from store.tenants import DEFAULT_TENANT
from tests.conftest import Api, problem
from tests.support.bills import PLACEHOLDER, Table, bill, book, in_csv, in_parquet

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
INTERVAL = {"start_time": "2026-03-01T00:00:00Z", "end_time": "2026-04-01T00:00:00Z"}
# By the specification's "Feature level: Mandatory"; ChargeClass alone is null for what is no correction.
MANDATORY = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
]
# Conditional columns that may not be null in a row of usage.
OF_USAGE = [
    "ListUnitPrice",
    "ContractedUnitPrice",
    "ConsumedQuantity",
    "ConsumedUnit",
    "SkuId",
    "SkuPriceId",
    "ResourceId",
    "PricingCategory",
    "ChargeFrequency",
    "ServiceSubcategory",
]
OWN = [
    "x_FullCacheCost",
    "x_RealisedSaving",
    "x_AllocatedSaving",
    "x_KvByteSecondsSaved",
    "x_ScorerVersion",
    "x_ScorerQuality",
    "x_WasteCost",
]


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def export(client: httpx.Client, accept: str = "text/csv", **params: Any) -> Table:
    response = client.get("/v1/exports/focus", params={**INTERVAL, **params}, headers={"accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].partition(";")[0] == accept
    return in_csv(response) if accept == "text/csv" else in_parquet(response)


def storage(number: int, booked_at: datetime, **columns: Any) -> dict[str, Any]:
    """A bill of 5 GiB stored for an hour, at the placeholder's 0.02 a GiB-month."""
    row = bill(number, booked_at, outcome="stored", jobs=0, attempts=0, model=None, device_type=None)
    nothing = dict.fromkeys(("device_seconds", "score_seconds", "kv_byte_seconds", "dense_byte_seconds"), 0)
    kept = {"storage_byte_seconds": Decimal(5 * 1024**3 * 3600), "cost": Decimal("0.0001388889")}
    return row | nothing | kept | {"job_id": f"storage:{DEFAULT_TENANT}", "project": None} | columns


def two_prices(api: Api) -> str:
    """A book in which the scorer's time costs more."""
    phases = [("device_seconds", "0.36"), ("device_seconds.score", "3.6")]
    content = {
        "name": "two",
        "currency": "USD",
        "price": [{"meter": meter, "unit": "device-hour", "amount": amount} for meter, amount in phases],
    }
    with api.database.session() as session:
        return prices.add(session, prices.parse(content))


@pytest.fixture
def booked(api: Api) -> list[dict[str, Any]]:
    """Bills by one price, by two, by none and by tokens alone, and an hour of storage."""
    full = {"full_cache_cost": Decimal("0.5"), "full_cache_devices": 3, "realised_saving": Decimal("0.499")}
    dear = two_prices(api)
    rows = [
        bill(1, NOON, scorer="namm-key@1", scorer_quality=Decimal("0.97"), tags={"team": "red"}, **full),
        bill(
            2, NOON, allocated_saving=Decimal("-0.25"), outcome="failed", waste_cost=Decimal("0.0010138889")
        ),
        bill(3, NOON, device_seconds=Decimal("1234567.891"), cost=Decimal("34.2935525277")),
        bill(4, NOON, price_book_id=dear, cost=Decimal("0.004775")),
        bill(5, NOON, cost=None, waste_cost=None),
        bill(6, NOON, device_seconds=Decimal(0), cost=Decimal("0.125")),
        bill(7, NOON, device_seconds=Decimal(0), cost=Decimal(0)),
        storage(8, NOON),
    ]
    book(api, *rows, bill(9, NOON - timedelta(days=20)), bill(10, NOON + timedelta(days=31)))
    return rows


def test_a_row_has_what_the_specification_asks_for(
    client: httpx.Client, booked: list[dict[str, Any]]
) -> None:
    rows = export(client)
    assert len(rows) == len(booked)
    for row in rows:
        assert {*MANDATORY, *OF_USAGE, *OWN} <= set(row)
        assert all(name.startswith("x_") for name in row if name.partition("_")[0] == "x")
        assert [name for name in (*MANDATORY, *OF_USAGE) if row[name] is None] == ["ChargeClass"]
        assert row["ChargeCategory"] == "Usage"
        assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == (
            "2026-03-01T00:00:00Z",
            "2026-04-01T00:00:00Z",
        )
        assert row["ChargePeriodStart"] < row["ChargePeriodEnd"]
        assert all(isinstance(value, str) for value in json.loads(row["Tags"]).values())


def test_a_unit_price_times_its_quantity_is_the_cost(
    client: httpx.Client, booked: list[dict[str, Any]]
) -> None:
    rows = export(client)
    for row in rows:
        for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
            difference = Decimal(row[price]) * Decimal(row["PricingQuantity"]) - Decimal(row[cost])
            assert abs(difference) <= Decimal("1e-9"), row
        assert row["BilledCost"] == row["EffectiveCost"] == row["ListCost"] == row["ContractedCost"]
    costs = [(one["job_id"], one["cost"] or 0) for one in booked]
    assert [(row["ResourceId"], Decimal(row["BilledCost"])) for row in rows] == costs
    priced = [(tabular.plain(round(Decimal(row["ListUnitPrice"]), 12)), row["PricingUnit"]) for row in rows]
    assert priced == [
        ("0.1", "Hours"),
        ("0.1", "Hours"),
        ("0.1", "Hours"),
        ("0.47095890411", "Hours"),  # the average, 0.004775 for 36.5 seconds
        ("0", "Hours"),
        ("0.125", "Attempts"),
        ("0.1", "Hours"),
        ("0.02", "GiB-Months"),
    ]
    assert [row["x_UnpricedSeconds"] for row in rows] == ["0", "0", "0", "0", "36.5", "0", "0", "0"]


def test_the_export_adds_up_to_the_report(client: httpx.Client, booked: list[dict[str, Any]]) -> None:
    rows = export(client)
    [bucket] = client.get("/v1/costs", params={**INTERVAL, "bucket_width": "month"}).json()["data"]
    [report] = bucket["results"]
    for column, metric in (("BilledCost", "cost"), ("x_WasteCost", "cost_waste")):
        total = sum((Decimal(row[column] or 0) for row in rows), Decimal(0))
        assert total == Decimal(report["metrics"][metric]["value"]) > 0
    seconds = sum(Decimal(row["ConsumedQuantity"]) for row in rows if row["ConsumedUnit"] == "Seconds")
    assert seconds == Decimal(report["metrics"]["device_seconds"]["value"])


def test_what_a_full_cache_would_have_cost_is_beside_and_no_credit(
    client: httpx.Client, booked: list[dict[str, Any]]
) -> None:
    first, second, *_ = export(client)
    assert {name: first[name] for name in OWN} == {
        "x_FullCacheCost": "0.5",
        "x_RealisedSaving": "0.499",
        "x_AllocatedSaving": None,
        "x_KvByteSecondsSaved": "98765432109875543210.123455",
        "x_ScorerVersion": "namm-key@1",
        "x_ScorerQuality": "0.97",
        "x_WasteCost": "0",
    }
    assert (second["x_AllocatedSaving"], second["x_FullCacheCost"]) == ("-0.25", None)
    assert json.loads(first["Tags"]) == {"team": "red"}


def test_parquet_has_the_same_rows(client: httpx.Client, booked: list[dict[str, Any]]) -> None:
    assert export(client, "application/vnd.apache.parquet") == export(client)


def test_without_accept_the_form_is_csv(client: httpx.Client, booked: list[dict[str, Any]]) -> None:
    response = client.get("/v1/exports/focus", params=INTERVAL)
    assert response.headers["content-type"] == "text/csv; charset=utf-8"


def test_the_charge_period_is_the_attempts_own(api: Api, client: httpx.Client) -> None:
    job = client.post("/v1/jobs", json={"text": "A text.", "questions": ["Q?"]}).json()["id"]
    attempt = {
        "job_id": job,
        "attempt": 2,
        "tenant_id": DEFAULT_TENANT,
        "token": 1,
        "worker": "wrk_test",
        "started_at": datetime(2026, 2, 28, 23, 59, 58, 700_000, tzinfo=UTC),
        "device_type": "cpu",
        "device_memory_bytes": 1,
        "price_book_id": PLACEHOLDER,
    }
    with api.database.session() as session:
        session.execute(insert(Attempt), [attempt, {**attempt, "attempt": 1, "token": 2, "started_at": NOON}])
    ended = datetime(2026, 3, 1, 0, 0, 35, 200_000, tzinfo=UTC)
    book(api, bill(1, ended, job_id=job, attempt=2), storage(2, NOON))
    attempted, stored = export(client)
    assert (attempted["ChargePeriodStart"], attempted["ChargePeriodEnd"]) == (
        "2026-02-28T23:59:58Z",
        "2026-03-01T00:00:36Z",
    )
    assert (attempted["ResourceType"], attempted["x_Attempt"]) == ("Job", "2")
    assert (stored["ChargePeriodStart"], stored["ResourceType"]) == ("2026-03-01T11:00:00Z", "Document Store")
    assert (stored["ConsumedQuantity"], stored["ConsumedUnit"]) == (str(5 * 1024**3 * 3600), "B-Seconds")


@pytest.mark.parametrize("at_once", [1, 3, 9])
def test_many_bills_of_one_moment_are_exported_once_each(
    api: Api, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(exports, "ROWS_AT_ONCE", at_once)
    book(api, *(bill(n % 5, NOON, attempt=n) for n in range(9)), bill(9, NOON + timedelta(hours=1)))
    found = [(row["ResourceId"], int(row["x_Attempt"])) for row in export(client)]
    assert found == [*sorted((f"job_{n % 5}", n) for n in range(9)), ("job_9", 1)]


def test_text_that_looks_like_a_formula_is_kept_from_being_one(api: Api, client: httpx.Client) -> None:
    book(api, bill(1, NOON, project="=1+1", tags={"=1": "+1"}))
    [row] = export(client)
    assert row["SubAccountId"] == "'=1+1"
    assert json.loads(row["Tags"]) == {"=1": "+1"}
    [kept] = export(client, "application/vnd.apache.parquet")
    assert kept["SubAccountId"] == "=1+1"


def test_an_interval_without_bills_is_a_table_without_rows(refusing_api: Api) -> None:
    with refusing_api.client() as client:
        assert export(client) == []
        assert export(client, "application/vnd.apache.parquet") == []
        ahead = {"start_time": "2998-01-01T00:00:00Z", "end_time": "2999-01-01T00:00:00Z"}
        assert export(client, **ahead) == []


@pytest.mark.parametrize(
    ("params", "code", "field"),
    [
        ({"group_by": "model"}, "unknown_parameter", "group_by"),
        ({"period": "2026-03"}, "unknown_parameter", "period"),
        ({"start_time": []}, "invalid_request", "start_time"),
        ({"start_time": "March"}, "invalid_request", "start_time"),
        ({"start_time": ["2026-03-01T00:00:00Z"] * 2}, "invalid_request", "start_time"),
        ({"end_time": "2026-03-01T00:00:00Z"}, "invalid_request", "end_time"),
        ({"start_time": "2998-01-01T00:00:00Z", "end_time": []}, "invalid_request", "end_time"),
    ],
)
def test_a_wrong_export_is_refused(refusing_api: Api, params: dict[str, Any], code: str, field: str) -> None:
    with refusing_api.client() as client:
        problem(client.get("/v1/exports/focus", params={**INTERVAL, **params}), 422, code, field)
