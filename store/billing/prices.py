"""Price books: the price of a unit of each meter, and the measured speed of a full cache.

Books never change; a new one supersedes the last at its `effective_from`. An attempt is billed by the book in
effect when it was claimed, so later books do not change bills. The first book, with placeholder prices, comes
with the database schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from sqlalchemy import ScalarSelect, SQLColumnExpression, func, insert, select
from sqlalchemy.orm import Session

from store.errors import Invalid
from store.ids import new_id
from store.tables.billing import PriceBookRow

MONEY = Decimal("1e-10")
HIGHEST = 10**9  # limit of a price in its currency: larger amounts might not fit

Unit = Literal["device-hour", "GiB-month", "million tokens"]
# How many of a meter's units (seconds, byte-seconds, tokens) one priced unit has. A month has 30 days here.
UNITS: Mapping[Unit, int] = {
    "device-hour": 3600,
    "GiB-month": 1024**3 * 30 * 24 * 3600,
    "million tokens": 1_000_000,
}

# The meters of consumption, and their groups, that can be priced in each unit.
_PRICED: Mapping[Unit, tuple[str, ...]] = {
    "device-hour": (
        "device_seconds",
        *(f"device_seconds.{phase}" for phase in ("count", "read", "score", "answer", "snapshot", "load")),
    ),
    "GiB-month": (
        "storage_byte_seconds",
        "kv_byte_seconds",
        "kv_byte_seconds.actual",
        "kv_byte_seconds.dense",
    ),
    "million tokens": (
        # Not tokens.document, .kept and .evicted, which every attempt reports again.
        *(f"tokens.{kind}" for kind in ("read", "cached", "prompt", "generated")),
    ),
}
UNIT_OF: Mapping[str, Unit] = {meter: unit for unit, meters in _PRICED.items() for meter in meters}

# Limits of a `full_cache` line: larger amounts or device counts might not fit a bill.
STEEPEST, HIGHEST_CONSTANT, HEAVIEST = 1, 1000, 2**50


class PriceBookInvalid(Invalid):
    """A price book is invalid."""

    code = "bad_price_book"


def _exact(value: Decimal) -> Decimal:
    if not value.is_finite() or not 0 <= value < HIGHEST or value != value.quantize(MONEY):
        raise ValueError("a price has at most 10 decimals, is at least 0 and less than a billion")
    return value


class Price(BaseModel):
    """One price. It covers the parts of its meter too: `device_seconds` covers `device_seconds.read`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    meter: str = Field(pattern=r"^[a-z_]+(\.[a-z_]+)*$")
    device: str | None = None  # None = any device without a price of its own
    unit: Unit
    amount: Annotated[Decimal, AfterValidator(_exact)]


class FullCache(BaseModel):
    """How much longer reading takes with a full cache, from measured runs.

    seconds(full) = seconds(model part of the pruned reading) · (constant + per_token · tokens)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    device: str
    # Slots per KV head of the pruned runs. Saved books never change, so there it keeps its first name.
    cache_budget: int = Field(
        validation_alias=AliasChoices("cache_budget", "budget"), serialization_alias="budget"
    )
    constant: Decimal
    per_token: Decimal
    weights_bytes: int = Field(ge=0)
    source: str  # where the runs are

    def slowdown(self, tokens: int) -> Decimal:
        return self.constant + self.per_token * tokens


class PriceBook(BaseModel):
    """The content of a TOML or JSON price file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=100)
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    effective_from: AwareDatetime | None = None  # None = from the moment it is added
    note: str = ""
    price: tuple[Price, ...] = Field(min_length=1)
    full_cache: tuple[FullCache, ...] = ()

    @model_validator(mode="after")
    def _unambiguous(self) -> Self:
        keys = [(price.meter, price.device) for price in self.price]
        duplicates = sorted(
            {
                f"{meter} on {device or 'any device'}"
                for meter, device in keys
                if keys.count((meter, device)) > 1
            }
        )
        if duplicates:
            raise ValueError(f"two prices for {', '.join(duplicates)}")
        return self

    def price_of(self, meter: str, device: str | None) -> Price | None:
        """The most specific price: the meter before its group, the device before any device."""
        name = meter
        while name:
            for wanted in (device, None):
                for price in self.price:
                    if (price.meter, price.device) == (name, wanted):
                        return price
            name = name.rpartition(".")[0]
        return None

    def amount(self, meter: str, device: str | None, quantity: Decimal) -> Decimal | None:
        """The price of a quantity, to 10 decimals; None if the book has no price."""
        price = self.price_of(meter, device)
        if price is None:
            return None
        return (quantity * price.amount / UNITS[price.unit]).quantize(MONEY, ROUND_HALF_EVEN)

    def full_cache_of(self, model: str, device: str, cache_budget: int | None) -> FullCache | None:
        wanted = (model, device, cache_budget)
        found = ((one, (one.model, one.device, one.cache_budget)) for one in self.full_cache)
        return next((one for one, key in found if key == wanted), None)


def parse(values: Mapping[str, Any]) -> PriceBook:
    """Parses a price book. Raises PriceBookInvalid with all faults in one sentence."""
    try:
        book = PriceBook.model_validate(values)
        faults = list(_faults(book))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc'])) or 'book'}: {one['msg']}" for one in error.errors()]
    if faults:
        raise PriceBookInvalid(f"The price book is invalid: {'; '.join(faults)}.")
    return book


def _faults(book: PriceBook) -> Iterator[str]:
    """What would price nothing or break bills. Not checked for saved books, which must stay readable."""
    for i, price in enumerate(book.price):
        unit = UNIT_OF.get(price.meter)
        if unit is None:
            yield f"price.{i}.meter: unknown meter '{price.meter}'; known: {', '.join(UNIT_OF)}"
        elif unit != price.unit:
            yield f"price.{i}.unit: '{price.meter}' is priced per {unit}"
    for i, one in enumerate(book.full_cache):
        if one.cache_budget < 1:
            yield f"full_cache.{i}.cache_budget: must be at least 1"
        if abs(one.constant) > HIGHEST_CONSTANT:
            yield f"full_cache.{i}.constant: must be from -{HIGHEST_CONSTANT} to {HIGHEST_CONSTANT}"
        if not 0 <= one.per_token <= STEEPEST:
            yield f"full_cache.{i}.per_token: must be from 0 to {STEEPEST}"
        if one.weights_bytes > HEAVIEST:
            yield f"full_cache.{i}.weights_bytes: must be at most {HEAVIEST}"


@dataclass(frozen=True)
class SavedBook:
    """A price book with its id."""

    id: str
    book: PriceBook


def add(session: Session, book: PriceBook) -> str:
    """Saves a book; returns its id.

    Raises PriceBookInvalid if it would take effect in the past, which may be billed already, or together with
    another book.
    """
    now: datetime = session.scalars(select(func.now())).one()
    begins = book.effective_from or now
    if begins < now:
        raise PriceBookInvalid(
            f"The price book would take effect at {begins:%Y-%m-%d %H:%M:%S %Z}, in the past."
        )
    taken = session.scalar(select(PriceBookRow.name).where(PriceBookRow.effective_from == begins))
    if taken is not None:
        raise PriceBookInvalid(
            f"The price book '{taken}' takes effect at the same time, and books never change."
        )
    book_id = new_id("prc")
    row = {"id": book_id, "effective_from": begins, **book.model_dump(include={"name", "currency", "note"})}
    content = book.model_dump(mode="json", by_alias=True, include={"price", "full_cache"})
    session.execute(insert(PriceBookRow).values(**row, content=content))
    return book_id


def in_effect(moment: SQLColumnExpression[datetime] | datetime) -> ScalarSelect[str]:
    """A subquery: the id of the book in effect at a moment; for past moments it never changes."""
    begun = PriceBookRow.effective_from <= moment
    newest = PriceBookRow.effective_from.desc()
    return select(PriceBookRow.id).where(begun).order_by(newest).limit(1).scalar_subquery()


def books(session: Session) -> list[SavedBook]:
    """All price books, the newest first."""
    rows = session.scalars(select(PriceBookRow).order_by(PriceBookRow.effective_from.desc()))
    return [_saved(row) for row in rows]


def get(session: Session, book_id: str) -> PriceBook:
    """A price book by id; read once per process, as books never change."""
    found = _read.get(book_id)
    if found is None:
        row = session.scalars(select(PriceBookRow).where(PriceBookRow.id == book_id)).one()
        found = _read[book_id] = _saved(row).book
    return found


_read: dict[str, PriceBook] = {}


def _saved(row: PriceBookRow) -> SavedBook:
    own = {"name": row.name, "currency": row.currency, "effective_from": row.effective_from, "note": row.note}
    return SavedBook(row.id, PriceBook.model_validate({**own, **row.content}))
