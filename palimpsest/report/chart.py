"""A stacked bar chart over time, as inline SVG."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from itertools import count

from palimpsest.report.figures import number

WIDTH, HEIGHT = 960, 260
LEFT, RIGHT, TOP, BOTTOM = 78, 36, 10, 28
COLOURS = 8  # --c0 … --c7 in report.css


@dataclass(frozen=True)
class Series:
    """A group's values, one for each bucket; None where unknown."""

    name: str
    values: Sequence[Decimal | None]
    colour: int


def colours(groups: Sequence[str]) -> dict[str, int]:
    """A colour for each group; if there are too many groups, the remaining ones share the last colour."""
    return {name: min(i, COLOURS - 1) for i, name in enumerate(dict.fromkeys(groups))}


def join(series: Sequence[Series]) -> list[Series]:
    """One series for each colour: those that share a colour are added up."""
    joined = []
    for colour in sorted({one.colour for one in series}):
        same = [one for one in series if one.colour == colour]
        if len(same) == 1:
            joined += same
            continue
        together: list[Decimal | None] = []
        for values in zip(*(one.values for one in same), strict=True):
            known = [value for value in values if value is not None]
            together.append(sum(known, Decimal(0)) if known else None)
        joined.append(Series(f"{len(same)} others", together, colour))
    return joined


def ticks(low: Decimal, high: Decimal) -> list[Decimal]:
    """Round numbers from at most `low` to at least `high`, 0 among them; `low` ≤ 0 ≤ `high`."""
    reach = (high - low) or Decimal(1)
    unit = Decimal(1).scaleb((reach / 4).adjusted())
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * 4 >= reach)
    below = next(n for n in count() if -n * step <= low)
    above = next(n for n in count() if n * step >= high)
    return [n * step for n in range(-below, max(above, 1 - below) + 1)]


def chart(series: Sequence[Series], names: Sequence[str], title: str, description: str) -> str:
    """SVG of the series; `names` are those of the buckets, `title` and `description` are for screen
    readers."""
    highs = [sum(max(one.values[i] or Decimal(0), Decimal(0)) for one in series) for i in range(len(names))]
    lows = [sum(min(one.values[i] or Decimal(0), Decimal(0)) for one in series) for i in range(len(names))]
    marks = ticks(Decimal(min(lows, default=0)), Decimal(max(highs, default=0)))
    scale = (HEIGHT - TOP - BOTTOM) / float(marks[-1] - marks[0])

    def y(value: Decimal) -> float:
        return HEIGHT - BOTTOM - float(value - marks[0]) * scale

    lines = "".join(
        f'<line class="{"zero" if not mark else "grid"}" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
        f'y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{_mark(mark)}</text>'
        for mark in marks
    )
    step = (WIDTH - LEFT - RIGHT) / max(len(names), 1)
    bars = []
    for i, name in enumerate(names):
        for colour, bottom, top, text in _stack(series, i):
            height = max(y(bottom) - y(top), 0)
            bars.append(
                f'<rect class="c{colour}" x="{LEFT + i * step + step * 0.08:.2f}" y="{y(top):.2f}" '
                f'width="{step * 0.84:.2f}" height="{height:.2f}">'
                f"<title>{escape(f'{name}: {text}')}</title></rect>"
            )
    every = max(1, -(-len(names) // 8))
    below = "".join(
        f'<text x="{LEFT + (i + 0.5) * step:.1f}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(names[i])}</text>"
        for i in range(every // 2, len(names), every)
    )
    label = escape(f"{title}. {description}", quote=True)
    drawn = lines + "".join(bars) + below
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{drawn}</svg>'


def _mark(value: Decimal) -> str:
    return f"{value:,f}".replace("-", "−")


def _stack(series: Sequence[Series], i: int) -> Iterator[tuple[int, Decimal, Decimal, str]]:
    """The bars of a bucket, stacked up and down from zero: colour, lower and upper end, tooltip."""
    up = down = Decimal(0)
    for one in series:
        value = one.values[i]
        if not value:
            continue
        text = f"{one.name}, {number(value)}"
        if value > 0:
            yield one.colour, up, up + value, text
            up += value
        else:
            yield one.colour, down + value, down, text
            down += value
