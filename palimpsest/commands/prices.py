"""`palimpsest price`: price books, directly in the database."""

import json
import tomllib
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import func, select

from palimpsest.commands.common import LocalData, reporting_errors
from palimpsest.machine.access import transaction
from palimpsest.machine.data_directory import LocalError, settings_with
from store.billing import prices
from store.billing.prices import PriceBook, PriceBookInvalid, SavedBook

app = typer.Typer(help="Show and load price books; needs access to the database.", no_args_is_help=True)
out = Console(highlight=False, emoji=False, soft_wrap=True)


@app.command()
def show(
    every: Annotated[bool, typer.Option("--all", help="Show all price books, newest first.")] = False,
    data: LocalData = None,
) -> None:
    """Print the price book in effect, and the known speed of a full cache."""
    with reporting_errors(), transaction(settings_with(data, "DATABASE_URL")) as session:
        now = session.scalars(select(func.now())).one()
        books = prices.books(session)
    current = _current(books, now)
    for number, saved in enumerate(books if every else [current]):
        if number:
            out.print()
        _print_book(
            saved, "in effect" if saved is current else "future" if _is_future(saved, now) else "past"
        )
    if not every:
        for saved in reversed(books):
            if _is_future(saved, now):
                _line(f"'{saved.book.name}' takes effect at {_moment(saved)}.")


@app.command()
def load(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, help="Price book in TOML or JSON.", metavar="FILE"
        ),
    ],
    data: LocalData = None,
) -> None:
    """Add a price book. It is immutable; attempts claimed before it takes effect keep their prices."""
    with reporting_errors():
        book = read_book(file)
        with transaction(settings_with(data, "DATABASE_URL")) as session:
            book_id = prices.add(session, book)
            now = session.scalars(select(func.now())).one()
            books = prices.books(session)
        added = next(saved for saved in books if saved.id == book_id)
        if _is_future(added, now):
            _line(f"'{book.name}' ({book.currency}) takes effect at {_moment(added)}; until then:")
        else:
            _line(f"'{book.name}' ({book.currency}) is in effect for attempts that begin from now on:")
        _print_book(_current(books, now), "in effect")


def read_book(file: Path) -> PriceBook:
    """Reads a price book from a .toml or .json file. Raises LocalError with all that is wrong with it."""
    readers: dict[str, Callable[[str], Any]] = {
        ".toml": lambda text: tomllib.loads(text, parse_float=Decimal),
        ".json": lambda text: json.loads(text, parse_float=Decimal),
    }
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise LocalError(f"{file} is neither a .toml nor a .json file.")
    try:
        values = reader(file.read_text(encoding="utf-8"))
        return prices.parse(values)
    except PriceBookInvalid as error:
        raise LocalError(f"{file}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise LocalError(f"{file} cannot be read: {error}.") from None


def _current(books: list[SavedBook], now: datetime) -> SavedBook:
    return next(saved for saved in books if not _is_future(saved, now))


def _is_future(saved: SavedBook, now: datetime) -> bool:
    return _begins(saved) > now


def _begins(saved: SavedBook) -> datetime:
    begins = saved.book.effective_from
    if begins is None:
        raise ValueError("a saved price book has a start")
    return begins


def _moment(saved: SavedBook) -> str:
    return f"{_begins(saved).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _print_book(saved: SavedBook, state: str) -> None:
    book = saved.book
    _line(f"{book.name}: {book.currency}, from {_moment(saved)} ({state}; {saved.id})")
    if book.note:
        _line(book.note)
    table = Table("meter", "device", "unit", f"{book.currency} a unit", box=None, pad_edge=False)
    table.columns[3].justify = "right"
    for price in book.price:
        table.add_row(price.meter, Text(price.device or "any other"), price.unit, f"{price.amount:,f}")
    out.print(table)
    if not book.full_cache:
        _line("The speed of a full cache is unknown, so there are no realised savings.")
    for one in book.full_cache:
        _line(
            f"Full cache of {one.model} on {one.device}, against {one.cache_budget} slots per head: "
            f"reading takes ({one.constant:f} + {one.per_token:f} · tokens) times as long; "
            f"weights {one.weights_bytes:,} bytes. Source: {one.source}"
        )


def _line(text: str) -> None:
    out.print(text, markup=False)
