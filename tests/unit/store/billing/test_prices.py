"""Price books: which price counts, what a book refuses, and bills made again beside others being made."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError

from namm_runtime.engine.usage import PHASES
from store.billing import bills, ledger, prices
from store.billing.prices import PriceBook, PriceBookInvalid
from store.database import Database
from store.jobs import leases
from store.tables.billing import Bill
from store.tables.job_states import State
from store.tables.jobs import Job
from tests.unit.store.conftest import CENTS, HOLDER

Submit = Callable[..., Job]


def price(
    meter: str, amount: object, device: str | None = None, unit: str = "device-hour"
) -> dict[str, object]:
    return {"meter": meter, "device": device, "unit": unit, "amount": amount}


def book(*entries: dict[str, object], **more: object) -> PriceBook:
    return prices.parse({"name": "a", "currency": "USD", "price": list(entries), **more})


def test_the_most_particular_price_counts() -> None:
    found = book(
        price("device_seconds", "1"),
        price("device_seconds", "2", "h100"),
        price("device_seconds.score", "3"),
        price("tokens.generated", "4", unit="million tokens"),
    )

    def of(meter: str, device: str | None) -> Decimal | None:
        one = found.price_of(meter, device)
        return None if one is None else one.amount

    assert of("device_seconds.read", "cpu") == 1
    assert of("device_seconds.read", "h100") == 2
    assert of("device_seconds.score", "h100") == 3, "the meter goes before the device"
    assert of("device_seconds", None) == 1
    assert of("tokens.generated", "cpu") == 4
    assert of("tokens_generated", "cpu") is None
    assert of("storage_byte_seconds", None) is None


@given(st.decimals("0", "1e12", places=6), st.decimals("0", "999999999", places=10))
def test_amounts_are_exact_to_ten_decimals(seconds: Decimal, amount: Decimal) -> None:
    found = book(price("device_seconds", amount)).amount("device_seconds.read", "cpu", seconds)
    assert found is not None
    # Python computes with 28 digits: beyond them an amount is right to its 28th.
    assert abs(found - seconds * amount / 3600) <= max(Decimal("0.5e-10"), found * Decimal("1e-26"))
    assert found == found.quantize(prices.MONEY)


def test_units() -> None:
    found = book(
        price("storage_byte_seconds", "0.02", unit="GiB-month"),
        price("tokens.generated", "5", unit="million tokens"),
    )
    month = Decimal(1024**3) * 30 * 86400
    assert found.amount("storage_byte_seconds", None, month / 2) == Decimal("0.01")
    assert found.amount("tokens.generated", "cpu", Decimal(200_000)) == 1
    assert found.amount("tokens.read", "cpu", Decimal(1)) is None


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity", "1e9", "1e300", "0.00000000001", "much"])
def test_amounts_that_are_no_price_are_refused(amount: str) -> None:
    with pytest.raises(PriceBookInvalid, match=r"price\.0\.amount"):
        book(price("device_seconds", amount))


def test_every_fault_is_named_in_one_sentence() -> None:
    with pytest.raises(PriceBookInvalid, match=r"two prices for device_seconds on any device\.$"):
        book(price("device_seconds", 1), price("device_seconds", 2))
    with pytest.raises(PriceBookInvalid, match=r"currency: .*; price\.0\.meter: .*price\.0\.unit") as raised:
        book(price("Device", 1, unit="hour"), currency="$")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            price("device_second", 1),
            r"price\.0\.meter: unknown meter 'device_second'; known: device_seconds,",
        ),
        (price("tokens.genrated", 1, unit="million tokens"), r"price\.0\.meter: unknown meter"),
        (price("tokens.document", 1, unit="million tokens"), r"price\.0\.meter: unknown meter"),
        (price("kv_bytes.peak", 1, unit="GiB-month"), r"price\.0\.meter: unknown meter"),
        (price("tokens.read", 1), r"price\.0\.unit: 'tokens\.read' is priced per million tokens"),
        (price("device_seconds", 1, unit="million tokens"), r"price\.0\.unit: .* per device-hour"),
    ],
)
def test_a_price_that_would_price_nothing_is_refused(entry: dict[str, object], told: str) -> None:
    with pytest.raises(PriceBookInvalid, match=told):
        book(entry)


def test_every_phase_and_meter_that_is_used_up_can_be_priced() -> None:
    used_up = {one.name for one in ledger.METERS if one.adds and one.unit in ("token", "byte-second")}
    phases = {f"device_seconds.{phase}" for phase in (*PHASES, "load")}
    groups = {"device_seconds", "kv_byte_seconds", "storage_byte_seconds"}
    assert set(prices.UNIT_OF) == used_up | {"tokens.cached"} | phases | groups


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("constant", "1e30"),
        ("per_token", "-0.1"),
        ("per_token", "1e30"),
        ("weights_bytes", 10**30),
        ("cache_budget", 0),
    ],
)
def test_a_full_cache_that_would_break_bills_is_refused(field: str, value: object) -> None:
    line = CENTS.full_cache[0].model_dump() | {field: value}
    with pytest.raises(PriceBookInvalid, match=rf"full_cache\.0\.{field}"):
        book(price("device_seconds", 1), full_cache=[line])


def test_books_take_over_at_their_time_and_not_before(db: Database) -> None:
    now = datetime.now(UTC)
    later = book(price("device_seconds", 9), name="later", effective_from=now + timedelta(days=1))
    with db.session() as session:
        later_id = prices.add(session, later)
    with db.session() as session:
        names = {saved.id: saved.book.name for saved in prices.books(session)}

        def at(moment: datetime) -> str:
            return names[session.scalars(select(prices.in_effect(moment))).one()]

        assert at(now - timedelta(days=1)) == "placeholder"
        assert at(now + timedelta(hours=23)) == "cents"
        assert at(now + timedelta(days=1)) == "later", "its own moment is its first"
        assert prices.get(session, later_id).price == later.price
        assert list(names.values()) == ["later", "cents", "placeholder"]


def test_a_book_begins_neither_in_the_past_nor_with_another(db: Database) -> None:
    moment = datetime.now(UTC) + timedelta(days=1)
    with db.session() as session:
        prices.add(session, book(price("device_seconds", 1), name="first", effective_from=moment))
        with pytest.raises(PriceBookInvalid, match="'first' takes effect at the same time"):
            prices.add(session, book(price("device_seconds", 2), effective_from=moment))
        with pytest.raises(PriceBookInvalid, match="in the past"):
            prices.add(
                session, book(price("device_seconds", 2), effective_from=moment - timedelta(days=1, hours=1))
            )


@pytest.mark.parametrize("change", ["UPDATE price_books SET currency = 'EUR'", "DELETE FROM price_books"])
def test_books_never_change(db: Database, change: str) -> None:
    with pytest.raises(DBAPIError, match="never change"), db.session() as session:
        session.execute(text(change))


def claimed(db: Database, submit: Submit) -> tuple[str, int]:
    submit()
    with db.session() as session:
        [job] = leases.claim(session, ["small"], HOLDER, limit=1, lease_seconds=30)
        assert job.lease_token is not None
        return job.id, job.lease_token


def test_a_later_book_changes_no_bill(db: Database, submit: Submit) -> None:
    job, token = claimed(db, submit)
    with db.session() as session:
        prices.add(session, book(price("device_seconds", 3600), currency="EUR"))
    with db.session() as session:
        leases.finish(session, job, token, State.FAILED, usage={"seconds": {"read": 10.0}})
        [bill] = session.scalars(select(Bill))
        assert (bill.cost, bill.currency) == (Decimal("0.001"), "USD")
        assert bills.rebuild_and_compare(session) == (1, 0)


def test_a_rebuild_counts_what_it_changes(db: Database, submit: Submit) -> None:
    for _ in range(3):
        job, token = claimed(db, submit)
        with db.session() as session:
            leases.finish(session, job, token, State.FAILED, usage={"seconds": {"read": 10.0}})
    with db.session() as session:
        assert bills.rebuild_and_compare(session) == (3, 0)
    with db.session() as session:
        session.execute(update(Bill).where(Bill.job_id == job).values(project="wrong"))
        session.execute(text("DELETE FROM bills WHERE job_id = (SELECT min(job_id) FROM bills)"))
    with db.session() as session:
        assert bills.rebuild_and_compare(session) == (3, 2)
        assert session.scalars(select(func.count()).where(Bill.project == "wrong")).one() == 0


def test_a_rebuild_waits_for_an_attempt_that_is_being_booked(db: Database, submit: Submit) -> None:
    job, token = claimed(db, submit)
    found: list[tuple[int, int]] = []

    def rebuild() -> None:
        with db.session() as session:
            found.append(bills.rebuild_and_compare(session))

    thread = threading.Thread(target=rebuild)
    with db.session() as session:
        leases.finish(session, job, token, State.FAILED, usage={"seconds": {"read": 10.0}})
        thread.start()
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'bills'::regclass")
        with db.session() as other:
            while thread.is_alive() and not other.scalars(waiting).one():
                time.sleep(0.01)
    thread.join()
    assert found == [(1, 0)]
