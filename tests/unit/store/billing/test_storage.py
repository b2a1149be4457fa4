"""Stored documents are billed by the hour, once, from their upload on."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy import select, text, update

from store import documents, tenants
from store.billing import bills, reports, storage
from store.database import Database
from store.tables.billing import Bill, UsageLine
from store.tables.documents import Document

GIB = 1024**3
HOUR = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def put(db: Database, tenant: str, size: int, created: datetime) -> None:
    with db.session() as session:
        key = documents.new_document_id()
        row = documents.create(
            session, tenant, key, sha256="0" * 64, size=size, media_type="text/plain", filename=None
        )
        session.execute(update(Document).where(Document.id == row.id).values(created_at=created))


def test_full_hours_are_booked_once_and_from_the_upload_on(db: Database, tenant: str) -> None:
    with db.session() as session:
        assert storage.accrue(session) == 0
        other = tenants.ensure(session, "ten_other", "other")
    put(db, tenant, GIB, now() - 3 * HOUR + HOUR / 2)
    put(db, other, 10, now() - HOUR)
    with db.session() as session:
        assert storage.accrue(session) == 4
        assert storage.accrue(session) == 0
    with db.session() as session:
        lines = session.scalars(select(UsageLine).where(UsageLine.tenant_id == tenant)).all()
        assert [line.quantity for line in lines] == [GIB * 1800, GIB * 3600, GIB * 3600]
        made = session.scalars(select(Bill).where(Bill.tenant_id == tenant)).all()
        # a GiB for 2.5 of the 720 hours of a month, at 0.02
        assert sum(bill.cost or 0 for bill in made) == Decimal("0.0000694445")
        before = session.execute(text("SELECT * FROM bills ORDER BY job_id, attempt")).all()
        assert bills.rebuild(session, jobs_at_once=3) == 4
        assert session.execute(text("SELECT * FROM bills ORDER BY job_id, attempt")).all() == before


def test_a_long_pause_is_caught_up_piece_by_piece(db: Database, tenant: str) -> None:
    put(db, tenant, 1, now() - 50 * HOUR)
    made = []
    for _ in range(4):
        with db.session() as session:
            made.append(storage.accrue(session))
    assert made == [24, 24, 2, 0]
    with db.session() as session:
        query = reports.Query(tenant, now() - 50 * HOUR, now())
        [row] = reports.run(session, query).buckets[0].rows
    assert row.values["storage_byte_seconds"] == 50 * 3600
    assert row.values["jobs"] == 0
