"""A report as one HTML page: no script, nothing loaded from anywhere, light and dark."""

from collections.abc import Sequence
from datetime import datetime
from html import escape
from importlib.resources import files

from palimpsest.report.chart import Series, chart, colours, join
from palimpsest.report.figures import FIGURES, Gathered, label, number, printable
from store.billing.reports import Row
from store.billing.time_buckets import Width

_SECURITY = "default-src 'none'; style-src 'unsafe-inline'"
_CHARTS = (
    ("cost", "Cost", "derived"),
    ("saving_realised", "Realised saving", "estimated"),
    ("saving_allocated", "Allocated saving", "estimated"),
)


def page(found: Gathered, tenant: str | None) -> str:
    """HTML of a report; `tenant` is the name of the one it is about, None for all."""
    style = files("palimpsest.report").joinpath("report.css").read_text(encoding="utf-8")
    start, end = (
        moment.astimezone(found.zone).strftime("%Y-%m-%d %H:%M")
        for moment in (found.query.start, found.query.end)
    )
    whose = "all tenants" if tenant is None else f"tenant {printable(tenant)}"
    by = ", ".join(printable(name) for name in found.query.group_by)
    about = f"{start} to {end} ({found.zone.key}), {whose}{f', by {by}' if by else ''}"
    body = _table(found) + _charts(found) if found.totals else "<p>Nothing was booked.</p>\n"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_SECURITY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Costs and savings, {escape(about)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>Costs and savings</h1>\n<p class="about">{escape(about)}</p>\n</header>\n'
        f"<main>\n{body}{_definitions()}</main>\n</body>\n</html>\n"
    )


def _table(found: Gathered) -> str:
    heads = "".join(
        f'<th scope="col">{escape(figure.heading)}<small>{figure.measurement}</small></th>'
        for figure in FIGURES
    )
    name = escape(", ".join(printable(name) for name in found.query.group_by)) or "group"
    groups = found.groups if found.query.group_by else []
    rows = "".join(_row(label(row), row) for row in groups)
    totals = "".join(_row("all", row) for row in found.totals)
    return (
        "<h2>In all</h2>\n"
        '<div class="scroll" tabindex="0" role="region" aria-label="Figures of each group"><table>'
        "<caption>Amounts in different currencies are never added up.</caption>\n"
        f'<thead><tr><th scope="col">{name}</th><th scope="col">currency</th>{heads}</tr></thead>\n'
        f"<tbody>{rows}</tbody>\n<tfoot>{totals}</tfoot>\n</table></div>\n{_unpriced(found)}"
    )


def _row(name: str, row: Row) -> str:
    cells = "".join(f"<td>{escape(figure.show(row))}</td>" for figure in FIGURES)
    return f'<tr><th scope="row"><bdi>{escape(name)}</bdi></th><td>{escape(row.currency)}</td>{cells}</tr>\n'


def _unpriced(found: Gathered) -> str:
    return "".join(f'<p class="note">{escape(sentence)}</p>\n' for sentence in found.unpriced())


def _charts(found: Gathered) -> str:
    names = [_name(bucket.start.astimezone(found.zone), found.width) for bucket in found.buckets]
    # A group has the same colour in every chart: the busiest first.
    busiest = sorted(found.groups, key=lambda row: row.values["device_seconds"] or 0, reverse=True)
    colour_of = colours([label(row) for row in busiest])
    parts = []
    for metric, title, measurement in _CHARTS:
        for total in found.totals:
            rows = [row for row in found.groups if row.currency == total.currency]
            series = [Series(label(row), found.over_time(row, metric), colour_of[label(row)]) for row in rows]
            known = [one for one in series if any(value is not None for value in one.values)]
            heading = f"{title} by {found.width}, {total.currency}, {measurement}"
            parts.append(
                f"<section>\n<h2>{escape(heading)}</h2>\n{_figure(known, names, heading)}</section>\n"
            )
    return "".join(parts)


def _name(moment: datetime, width: Width) -> str:
    if width in (Width.MINUTE, Width.HOUR):
        return f"{moment:%m-%d %H:%M}"
    return f"{moment:%Y-%m}" if width is Width.MONTH else f"{moment:%Y-%m-%d}"


def _figure(known: Sequence[Series], names: Sequence[str], heading: str) -> str:
    if not known:
        return "<p>Nothing is known of it here.</p>\n"
    series = join(known)
    legend = "".join(
        f'<li><svg viewBox="0 0 1 1" aria-hidden="true"><rect class="c{one.colour}" width="1" height="1"/>'
        f"</svg><bdi>{escape(one.name)}</bdi></li>"
        for one in series
    )
    spoken = f"Bars stacked by group, {len(names)} steps; the same figures are in the table below"
    return (
        f"<figure>{chart(series, names, heading, spoken)}\n"
        f'<figcaption><ul class="legend">{legend}</ul>The first and the last step may be shorter than the '
        f"others.</figcaption></figure>\n{_numbers(series, names, heading)}"
    )


def _numbers(series: Sequence[Series], names: Sequence[str], heading: str) -> str:
    """The chart as a table, for who cannot see it; steps in which nothing was booked are left out."""
    heads = "".join(f'<th scope="col"><bdi>{escape(one.name)}</bdi></th>' for one in series)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{number(one.values[i])}</td>" for one in series)
        + "</tr>\n"
        for i, name in enumerate(names)
        if any(one.values[i] is not None for one in series)
    )
    return (
        f'<details><summary>As a table</summary><div class="scroll"><table>'
        f'<caption>{escape(heading)}</caption><thead><tr><th scope="col">from</th>{heads}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div></details>\n"
    )


def _definitions() -> str:
    entries = "".join(
        f"<dt>{escape(figure.heading)}<small>{figure.measurement}, {figure.version}</small></dt>"
        f"<dd>{escape(figure.definition)}</dd>\n"
        for figure in FIGURES
    )
    return (
        "<h2>What the figures mean</h2>\n"
        "<p>Measured: read off a clock or counted. Derived: computed from what was measured, without further "
        "assumptions. Estimated: compared with something that did not happen.</p>\n"
        f"<dl>\n{entries}</dl>\n"
    )
