"""Renders a report as a page of JSON, lines of JSON, or rows of a table, all with the same figures."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, cast

from api.http.tabular import Column, Value, moment, plain, written
from api.reports.schemas import BucketOut, MeasureOut, ReportPage, ReportRowOut
from store.billing.reports import METRICS, Bucket, Report, Row


def page(report: Report, names: Sequence[str], next_page: str | None) -> ReportPage:
    """A page of JSON with the named metrics."""
    return ReportPage(
        as_of=report.as_of,
        data=[
            BucketOut(
                start_time=bucket.start,
                end_time=bucket.end,
                results=[_row(row, names) for row in bucket.rows],
            )
            for bucket in report.buckets
        ],
        has_more=next_page is not None,
        next_page=next_page,
    )


def _row(row: Row, names: Sequence[str]) -> ReportRowOut:
    measures: dict[str, MeasureOut] = {}
    for name in names:
        metric, value = METRICS[name], _value(row, name)
        measures[name] = MeasureOut(
            value=None if value is None else plain(value),
            unit=row.currency if metric.unit == "money" else metric.unit,
            measurement=cast(Literal["measured", "derived", "estimated"], metric.measurement),
        )
    return ReportRowOut(group=row.group, currency=row.currency, metrics=measures)


def _scale(name: str) -> int:
    """Number of decimals: as in the bills, and ten for means."""
    metric = METRICS[name]
    return 10 if metric.unit == "money" or metric.by == "mean" else 6


def _value(row: Row, name: str) -> Decimal | None:
    value = row.values[name]
    return round(value, _scale(name)) if value is not None and METRICS[name].by == "mean" else value


def lines(pages: Iterator[list[Bucket]], names: Sequence[str]) -> Iterator[str]:
    """JSON lines, one per bucket and group; an empty bucket has one line."""
    for buckets in pages:
        found = []
        for bucket in buckets:
            times = {"start_time": moment(bucket.start), "end_time": moment(bucket.end)}
            for row in [_row(row, names).model_dump() for row in bucket.rows] or [_NOTHING]:
                found.append(json.dumps({**times, **row}, ensure_ascii=False) + "\n")
        yield "".join(found)


_NOTHING: dict[str, Any] = {"group": {}, "currency": None, "metrics": {}}


def table(
    form: str, pages: Iterator[list[Bucket]], groups: Sequence[str], names: Sequence[str]
) -> Iterator[bytes]:
    """CSV or Parquet, one row per bucket and group; an empty bucket has one row."""
    columns = [
        Column("start_time", datetime),
        Column("end_time", datetime),
        *map(Column, groups),
        Column("currency"),
        *(Column(name, Decimal, _scale(name)) for name in names),
    ]
    empty = (None,) * (len(columns) - 2)

    def cells(row: Row) -> tuple[Value, ...]:
        keys = (row.group[name] for name in groups)
        return (*keys, row.currency, *(_value(row, name) for name in names))

    tables = (
        [
            (bucket.start, bucket.end, *found)
            for bucket in buckets
            for found in ([cells(row) for row in bucket.rows] or [empty])
        ]
        for buckets in pages
    )
    return written(form, columns, tables)
