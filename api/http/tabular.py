"""Tables: rows streamed as CSV (RFC 4180) or Parquet.

In CSV, text that a spreadsheet would treat as a formula gets a leading `'`.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from api.http.content_negotiation import CSV

Value = str | Decimal | datetime | None
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class Column(NamedTuple):
    """A column of text, of times, or of numbers with `scale` decimals."""

    name: str
    kind: type[str] | type[datetime] | type[Decimal] = str
    scale: int = 0


def plain(value: Decimal) -> str:
    """A number without an exponent or trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def moment(value: datetime) -> str:
    """A time in UTC in RFC 3339, with fractions of a second only if there are any."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def written(
    media_type: str, columns: Sequence[Column], pages: Iterable[Sequence[Sequence[Value]]]
) -> Iterator[bytes]:
    """Pages of rows as a CSV or Parquet file, in chunks."""
    return _csv(columns, pages) if media_type == CSV else _parquet(columns, pages)


def _csv(columns: Sequence[Column], pages: Iterable[Sequence[Sequence[Value]]]) -> Iterator[bytes]:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow([_cell(column.name) for column in columns])
    for page in pages:
        writer.writerows([_cell(value) for value in row] for row in page)
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue().encode()


def _cell(value: Value) -> str | None:
    if isinstance(value, str):
        return "'" + value if value.startswith(FORMULA) else value
    if isinstance(value, Decimal):
        return plain(value)
    return None if value is None else moment(value)


def _parquet(columns: Sequence[Column], pages: Iterable[Sequence[Sequence[Value]]]) -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    def type_of(column: Column) -> Any:
        if column.kind is Decimal:
            return pa.decimal128(38, column.scale)
        return pa.timestamp("us", tz="UTC") if column.kind is datetime else pa.string()

    schema = pa.schema([(column.name, type_of(column)) for column in columns])
    sink = _Sink()
    with parquet.ParquetWriter(sink, schema) as writer:
        for page in pages:
            if page:
                cells = zip(*page, strict=True)
                arrays = [pa.array(values, one.type) for values, one in zip(cells, schema, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                yield sink.drain()
    yield sink.drain()


class _Sink(io.RawIOBase):
    """A write-only file that hands over what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        chunk = bytes(data)
        self._chunks.append(chunk)
        self._size += len(chunk)
        return len(chunk)

    def drain(self) -> bytes:
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)
