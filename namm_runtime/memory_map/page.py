"""The memory map as a single HTML page without scripts or external resources, for light and dark mode."""

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from namm_runtime.memory_map.retention import Retention, TokenisedDocument
from namm_runtime.memory_map.token_kinds import TOKEN_KINDS
from namm_runtime.model.loading import LoadedModel

LEVELS = 8  # shades
SECTION = 8_000  # characters that a browser lays out together
LONGEST = 2_000_000  # characters; in longer documents, evicted stretches are left out
_EDGE = 100  # characters shown at both ends of a stretch that is left out
_BINS = 200  # bars of the overview

_SECURITY = "default-src 'none'; style-src 'unsafe-inline'"


def page(
    title: str,
    model: LoadedModel,
    document: TokenisedDocument,
    readings: Sequence[Retention],
    kinds: NDArray[np.int64],
    decided: str,
    interval: int,
    longest: int = LONGEST,
) -> str:
    """HTML of the map, with several readings side by side.

    Args:
        kinds: [T] index into TOKEN_KINDS of each token.
        decided: a sentence that says how the kinds were determined.
        longest: maximum number of characters of text to show.
    """
    shown = _Shown(document, readings, longest)
    style = files("namm_runtime.memory_map").joinpath("page.css").read_text()
    columns = f"--columns: {len(readings)}"
    heads = "".join(f"<section>{_summary(model, reading, interval)}</section>" for reading in readings)
    forgotten = "".join(f"<section>{_kinds(reading, kinds)}</section>" for reading in readings)
    tables = "".join(f"<section>{_heads(reading)}</section>" for reading in readings)
    overview = "".join(f"<section>{_overview(reading)}</section>" for reading in readings)
    text = "".join(shown.sections())
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_SECURITY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Memory map of {escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f'<body style="{columns}">\n<h1>Memory map of {escape(title)}</h1>\n'
        f"<p>{document.tokens:,} tokens. The darker a passage is shaded, the more of the model's heads still "
        f"hold it after reading; grey text without shading is in no head's cache.</p>\n"
        f'<div class="row">{heads}</div>\n'
        f"<h2>Along the document</h2>\n"
        f'<div class="row">{overview}</div>\n'
        f"<h2>What was evicted, by kind of token</h2>\n<p>{escape(decided)}</p>\n"
        f'<div class="row">{forgotten}</div>\n'
        f"<h2>Share of the document kept, by layer and head</h2>\n"
        f'<div class="row">{tables}</div>\n'
        f"<h2>The text</h2>\n{_legend(readings)}{shown.note()}"
        f'<main id="text">{text}</main>\n</body>\n</html>\n'
    )


def _summary(model: LoadedModel, reading: Retention, interval: int) -> str:
    usage, identity = reading.usage, reading.spec.identity()
    entries = [
        ("policy", reading.spec.label),
        ("scorer", f"{identity['scorer']} ({identity['sha256'][:12]})" if "scorer" in identity else "none"),
        ("budget", f"{reading.slots:,} slots per head" if reading.slots else "all tokens"),
        ("evictions", f"every {interval} tokens; the last {reading.waiting:,} tokens came after the last one"
         if reading.slots else "none"),
        ("model", f"{model.name} ({model.revision}), {usage.positions} positions"),
        ("kept", f"{usage.kept_fraction:.2%} of the tokens at the largest head of each layer"),
        ("KV cache", f"{_mib(usage.resident_bytes)}; a full one {_mib(usage.dense_bytes)}"),
    ]  # fmt: skip
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in entries)
    return f"<dl>{rows}</dl>"


def _mib(number: int) -> str:
    return f"{number / 2**20:.1f} MiB"


def _overview(reading: Retention) -> str:
    """Bar chart: the share of heads that hold the tokens of each part of the document."""
    tokens = len(reading.counts)
    bins = min(_BINS, tokens)
    edges = np.linspace(0, tokens, bins + 1).astype(int)
    shares = [float(reading.counts[a:b].mean()) / reading.heads for a, b in pairwise(edges)]
    top = max(*shares, 1e-9) if bins > 1 else max(shares[0], 1e-9)
    bars = "".join(
        f'<rect x="{x}" y="{40 * (1 - share / top):.2f}" width="1" height="{40 * share / top:.2f}"/>'
        for x, share in enumerate(shares)
    )
    label = f"Mean share of heads that hold a token, from beginning to end; the highest bar is {top:.1%}"
    return (
        f'<figure><svg viewBox="0 0 {bins} 40" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f"{bars}</svg><figcaption>{label}.</figcaption></figure>"
    )


def _kinds(reading: Retention, kinds: NDArray[np.int64]) -> str:
    rows = []
    for number, name in enumerate(TOKEN_KINDS):
        counts = reading.counts[kinds == number]
        if len(counts):
            held, gone = counts.mean() / reading.heads, (counts == 0).mean()
            rows.append(
                f"<tr><th>{name}</th><td>{len(counts):,}</td><td{_heat(held)}>{held:.1%}</td>"
                f"<td{_heat(gone)}>{gone:.1%}</td></tr>"
            )
    return (
        f"<table><caption>{escape(reading.spec.label)}</caption><tr><th>kind</th><th>tokens</th>"
        f"<th>mean share of heads that hold one</th><th>held by none</th></tr>{''.join(rows)}</table>"
    )


def _heads(reading: Retention) -> str:
    tokens = len(reading.counts)
    numbers = "".join(f"<th>head {head}</th>" for head in range(reading.kept.shape[1]))
    rows = []
    for layer, kept in enumerate(reading.kept):
        cells = "".join(f"<td{_heat(k / tokens)} title='{k:,} tokens'>{k / tokens:.1%}</td>" for k in kept)
        rows.append(f"<tr><th>layer {layer}</th>{cells}</tr>")
    caption = f"<caption>{escape(reading.spec.label)}</caption>"
    return f"<table>{caption}<tr><th></th>{numbers}</tr>{''.join(rows)}</table>"


def _heat(share: float) -> str:
    return f' style="--heat: {100 * share:.0f}%"'


def _legend(readings: Sequence[Retention]) -> str:
    heads = readings[0].heads
    levels = min(LEVELS, heads)
    names = ["none"]
    for level in range(1, levels + 1):
        low, high = (level - 1) * heads // levels + 1, level * heads // levels
        names.append(str(high) if low >= high else f"{low}–{high}")
    shades = "".join(
        f'<span class="{_shade(level, levels)}">{name}</span> ' for level, name in enumerate(names)
    )
    return f'<p class="legend">Heads that hold a token, of {heads} over all layers: {shades}</p>\n'


def _shade(level: int, levels: int) -> str:
    return f"l{round(level * LEVELS / levels)}"


class _Shown:
    """The text as sections of shaded runs."""

    def __init__(self, document: TokenisedDocument, readings: Sequence[Retention], longest: int) -> None:
        self.document, self.readings = document, readings
        self.heads = readings[0].heads
        self.levels = min(LEVELS, self.heads)
        self.shades = [self._shades(reading) for reading in readings]
        self.gaps: list[tuple[int, int]] = []
        self.end = len(document.text)
        if self.end > longest:
            self.gaps = self._forgotten()
            left_out = 0
            for begin, end in [*self.gaps, (self.end, self.end)]:
                if begin - left_out > longest:
                    self.end = longest + left_out
                    self.gaps = [gap for gap in self.gaps if gap[1] <= self.end]
                    break
                left_out += end - begin

    def note(self) -> str:
        """A note on the parts of the text that are left out."""
        if not self.gaps and self.end == len(self.document.text):
            return ""
        gone = sum(end - begin for begin, end in self.gaps)
        sentences = [
            f"The document has {len(self.document.text):,} characters, too many for one page.",
            f"{len(self.gaps):,} stretches that no head holds are left out and marked ({gone:,} characters)."
            if self.gaps
            else "",
            f"The text is shown up to character {self.end:,}." if self.end < len(self.document.text) else "",
            "The tables count all of it.",
        ]
        return f'<p class="note">{" ".join(filter(None, sentences))}</p>\n'

    def sections(self) -> Iterator[str]:
        """Rows of blocks, one block per reading."""
        begin = 0
        for gap_begin, gap_end in [*self.gaps, (self.end, self.end)]:
            while begin < gap_begin:
                end = self._cut(begin, gap_begin)
                blocks = "".join(
                    f'<div class="text">{self._runs(shades, begin, end)}</div>' for shades in self.shades
                )
                yield f'<div class="row">{blocks}</div>'
                begin = end
            if gap_end > gap_begin:
                yield f'<p class="gap">{gap_end - gap_begin:,} characters that no head holds</p>'
            begin = gap_end

    def _shades(self, reading: Retention) -> NDArray[np.uint8]:
        """[characters] shading level of each: the highest of the tokens that share it."""
        starts = self.document.starts
        best = np.zeros(len(self.document.text) + 1, dtype=np.int64)
        np.maximum.at(best, starts[:-1], reading.counts)
        level = -(-best * self.levels // self.heads)
        firsts = np.unique(starts)
        lengths = np.diff(firsts)
        return np.repeat(level[firsts[:-1]], lengths).astype(np.uint8)

    def _forgotten(self) -> list[tuple[int, int]]:
        """Stretches that are evicted in every reading, without their edges."""
        held = np.zeros(len(self.document.text), dtype=bool)
        for shades in self.shades:
            held |= shades > 0
        edges = np.flatnonzero(np.diff(np.concatenate(([True], held, [True])).astype(np.int8)))
        stretches = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        return [(begin + _EDGE, end - _EDGE) for begin, end in stretches if end - begin > 4 * _EDGE]

    def _cut(self, begin: int, limit: int) -> int:
        """The end of a section: after a line break, if there is one."""
        if limit - begin <= SECTION:
            return limit
        line = self.document.text.rfind("\n", begin, begin + SECTION)
        return line + 1 if line > begin else begin + SECTION

    def _runs(self, shades: NDArray[np.uint8], begin: int, end: int) -> str:
        part = shades[begin:end]
        cuts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(part)]
        runs = (
            (_shade(int(part[a]), self.levels), self.document.text[begin + a : begin + b])
            for a, b in pairwise(cuts)
        )
        return "".join(f'<span class="{shade}">{_text(text)}</span>' for shade, text in runs)


def _text(text: str) -> str:
    """Escape text; an HTML parser would turn a bare carriage return into a line break."""
    return escape(text).replace("\r", "&#13;")
