"""Bills for tests, and the files that reports of them come in."""

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pyarrow.parquet
from sqlalchemy import insert

from store.tables.billing import Bill
from store.tenants import DEFAULT_TENANT
from tests.conftest import Api

PLACEHOLDER = "prc_placeholder"
Table = list[dict[str, Any]]


def bill(number: int, booked_at: datetime, **columns: Any) -> dict[str, Any]:
    row = {
        "job_id": f"job_{number}",
        "attempt": 1,
        "tenant_id": DEFAULT_TENANT,
        "booked_at": booked_at,
        "project": "default",
        "model": "small",
        "scorer": None,
        "device_type": "cpu",
        "outcome": "succeeded",
        "tags": {},
        "currency": "USD",
        "price_book_id": PLACEHOLDER,
        "jobs": 1,
        "attempts": 1,
        "device_seconds": Decimal("36.5"),
        "score_seconds": Decimal("1.25"),
        "waste_seconds": Decimal("0"),
        "kv_byte_seconds": Decimal("1000000.000001"),
        "dense_byte_seconds": Decimal("98765432109876543210.123456"),
        "cost": Decimal("0.0010138889"),
        "waste_cost": Decimal("0"),
        "allocated_saving": None,
        "full_cache_cost": None,
        "full_cache_devices": None,
        "realised_saving": None,
        "scorer_quality": None,
    }
    return row | columns


def book(api: Api, *rows: dict[str, Any]) -> None:
    with api.database.session() as session:
        session.execute(insert(Bill), rows)


def as_text(value: Any) -> str | None:
    """A cell of Parquet as the other forms write it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return value


def in_parquet(response: httpx.Response) -> Table:
    table = pyarrow.parquet.read_table(io.BytesIO(response.content))
    return [{name: as_text(value) for name, value in row.items()} for row in table.to_pylist()]


def in_csv(response: httpx.Response) -> Table:
    rows = csv.DictReader(io.StringIO(response.text, newline=""))
    return [{name: cell or None for name, cell in row.items()} for row in rows]
