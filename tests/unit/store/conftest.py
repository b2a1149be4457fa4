"""A database of each test's own, and the few rows that most tests start from."""

from collections.abc import Callable, Iterator

import pytest

from store import documents, jobs, tenants
from store.billing import prices
from store.database import Database
from store.jobs.leases import Holder
from store.tables.jobs import Job

HOLDER = Holder("wrk_one", "cpu", 8 * 1024**3)


CENTS = prices.parse(
    {
        "name": "cents",
        "currency": "USD",
        "price": [
            {"meter": "device_seconds", "unit": "device-hour", "amount": "0.36"},
            {"meter": "storage_byte_seconds", "unit": "GiB-month", "amount": "0.02"},
        ],
        "full_cache": [
            {
                "model": "small",
                "device": "cpu",
                "cache_budget": 64,
                "constant": "0.5",
                "per_token": "0.01",
                "weights_bytes": 10 * 1024**3,
                "source": "a test",
            }
        ],
    }
)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    with database.session() as session:
        prices.add(session, CENTS)
    yield database
    database.close()


@pytest.fixture
def tenant(db: Database) -> str:
    with db.session() as session:
        return tenants.ensure(session)


@pytest.fixture
def document(db: Database, tenant: str) -> str:
    with db.session() as session:
        key = documents.new_document_id()
        row = documents.create(
            session, tenant, key, sha256="0" * 64, size=9, media_type="text/plain", filename="a.txt"
        )
        return row.id


@pytest.fixture
def submit(db: Database, tenant: str, document: str) -> Callable[..., Job]:
    """Creates a job; keyword arguments change what is asked."""

    def create(**changes: object) -> Job:
        asked: dict[str, object] = {
            "document_id": document,
            "task": "ask",
            "prompts": ["Who?"],
            "model": "small",
            "policy": "window",
        }
        with db.session() as session:
            return jobs.create(session, tenant, jobs.NewJob(**{**asked, **changes}))  # type: ignore[arg-type]

    return create
