"""A report as a self-contained HTML page: no scripts, nothing loaded, light and dark."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from palimpsest.report.chart import Series, chart, colours, join
from palimpsest.report.figures import FIGURES, ReportData, label, number, printable
from palimpsest.report.warnings import sentences
from store.billing.time_buckets import Width

_CHARTS = (
    ("cost", "Cost", "derived"),
    ("saving_realised", "Realised saving", "estimated"),
    ("saving_allocated", "Allocated saving", "estimated"),
)
_templates = Environment(
    loader=PackageLoader("palimpsest.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True)
class _Chart:
    """A chart, and its values as a table for screen readers; without series if all values are unknown."""

    heading: str
    series: Sequence[Series]
    svg: Markup
    rows: list[tuple[str, list[str]]]  # a bucket's name and the value of each series


def page(found: ReportData, tenant: str | None) -> str:
    """HTML of a report; `tenant` is the name of its tenant, None for all tenants."""
    style = files("palimpsest.report").joinpath("report.css").read_text(encoding="utf-8")
    by = ", ".join(printable(name) for name in found.query.group_by)
    return _templates.get_template("report.html").render(
        about=_about(found, tenant, by),
        style=Markup(style),
        figures=FIGURES,
        label=label,
        group=by or "group",
        groups=found.groups if by else [],
        totals=found.totals,
        unpriced=found.unpriced(),
        warnings=sentences(found.warnings),
        charts=list(_charts(found)),
    )


def _about(found: ReportData, tenant: str | None, by: str) -> str:
    start, end = (
        moment.astimezone(found.zone).strftime("%Y-%m-%d %H:%M")
        for moment in (found.query.start, found.query.end)
    )
    whose = "all tenants" if tenant is None else f"tenant {printable(tenant)}"
    return f"{start} to {end} ({found.zone.key}), {whose}{f', by {by}' if by else ''}"


def _charts(found: ReportData) -> Iterator[_Chart]:
    names = [_name(bucket.start.astimezone(found.zone), found.width) for bucket in found.buckets]
    # A group has the same colour in every chart, in order of device time.
    busiest = sorted(found.groups, key=lambda row: row.values["device_seconds"] or 0, reverse=True)
    colour_of = colours([label(row) for row in busiest])
    for metric, title, measurement in _CHARTS:
        for total in found.totals:
            rows = [row for row in found.groups if row.currency == total.currency]
            series = [Series(label(row), found.over_time(row, metric), colour_of[label(row)]) for row in rows]
            known = [one for one in series if any(value is not None for value in one.values)]
            yield _chart(f"{title} by {found.width}, {total.currency}, {measurement}", join(known), names)


def _chart(heading: str, series: Sequence[Series], names: Sequence[str]) -> _Chart:
    spoken = f"Bars stacked by group, {len(names)} steps; the same figures are in the table below"
    rows = [
        (name, [number(one.values[i]) for one in series])
        for i, name in enumerate(names)
        if any(one.values[i] is not None for one in series)
    ]
    return _Chart(heading, series, Markup(chart(series, names, heading, spoken)), rows)


def _name(moment: datetime, width: Width) -> str:
    if width in (Width.MINUTE, Width.HOUR):
        return f"{moment:%m-%d %H:%M}"
    return f"{moment:%Y-%m}" if width is Width.MONTH else f"{moment:%Y-%m-%d}"
