"""The tables of speed: lengths, the time breakdown and the eager path."""

from benchmarks.labels import LABELS, MIB, NAMES, Row, made, table
from benchmarks.reading_time_fit import Quadratic

WAYS = {None: "full cache, whole document in one call", 512: "full cache, calls of 512 tokens"}


def lengths(rows: list[Row]) -> str:
    """Tokens per second and memory against the document's length, with conclusions."""
    columns = sorted({row["tokens"] for row in rows if row["policy"] == "namm"})
    lines = {(row["policy"], row["chunk"]): "" for row in rows if row["chunk"] in WAYS}
    named = {key: WAYS[key[1]] if key[0] == "full" else LABELS[key[0]] for key in lines}
    cells = {(row["policy"], row["chunk"], row["tokens"]): row for row in rows}

    def grid(title: str, cell: dict[tuple[str, int | None, int], str]) -> list[str]:
        head = [title, *(f"{tokens:,} tokens" for tokens in columns)]
        return table(head, [[named[k], *(cell.get((*k, n), "–") for n in columns)] for k in lines])

    speed = {key: _speed(row) for key, row in cells.items()}
    memory = {key: _memory(row) for key, row in cells.items()}
    return "\n".join(
        [
            *grid("tokens/s", speed),
            "",
            *grid("peak memory of the process / KV", memory),
            "",
            " ".join([*_findings(rows), made(rows)]),
        ]
    )


def _speed(row: Row) -> str:
    text = f"{row['tokens_per_second']:,.0f}"
    return text if row["basis"] == "measured" else f"*{text}, {row['basis']}*"


def _memory(row: Row) -> str:
    held = f"{row['kv_bytes'] / MIB:,.1f} MiB"
    if row["basis"] == "measured":
        return f"{row['process_peak_bytes'] / MIB:,.0f} / {held}"
    return f"*{held} of KV, derived (shapes)*"


def _findings(rows: list[Row]) -> list[str]:
    """Conclusions from the rows, in sentences."""
    namm = {row["tokens"]: row for row in rows if row["policy"] == "namm"}
    full = [row for row in rows if row["policy"] == "full"]
    found = []
    both = [row for row in full if row["basis"] == "measured" and row["tokens"] in namm]
    if both:
        longest = max(row["tokens"] for row in both)
        best = max((r for r in both if r["tokens"] == longest), key=lambda r: r["tokens_per_second"])
        ratio = namm[longest]["tokens_per_second"] / best["tokens_per_second"]
        found.append(
            f"At {longest:,} tokens, the longest length at which both are measured, namm reads {ratio:.1f} "
            f"times as fast as the full cache ({_way(best['chunk'])})."
        )
    at_most = max(namm)
    for chunk in dict.fromkeys(row["chunk"] for row in full):
        fits = [row["fit"] for row in full if row["chunk"] == chunk and "fit" in row]
        if fits:
            fit = Quadratic.of(fits[0])
            length = fit.crossover(namm[at_most]["tokens_per_second"])
            found.append(
                f"Crossover with namm ({_way(chunk)}): {_rounded(length)} tokens, derived from the fit "
                f"seconds = {fit.linear:.3g} n + {fit.quadratic:.3g} n², which misses its {fit.points} "
                f"points by {fit.residual:.1%} (root mean square) and at most {fit.worst:.1%}."
            )
    if 65_536 in namm and at_most > 65_536:
        flat = namm[at_most]["tokens_per_second"] / namm[65_536]["tokens_per_second"]
        found.append(f"namm's tokens/s at {at_most:,} tokens are {flat:.2f} of those at 65,536.")
    tried = min((row["tokens"] for row in full if row["chunk"] not in WAYS), default=0)
    trials = [row for row in full if row["basis"] == "measured" and row["tokens"] == tried]
    if trials:
        chunks = [f"{row['tokens_per_second']:,.0f} ({_way(row['chunk'])})" for row in trials]
        found.append(f"The full cache at {tried:,} tokens: {', '.join(chunks)} tokens/s.")
    found.append(f"{namm[at_most]['budget']} slots a head, stdlib text, nothing asked.")
    return found


def _way(chunk: int | None) -> str:
    return "whole document in one call" if chunk is None else f"calls of {chunk:,} tokens"


def _rounded(length: float) -> str:
    """Two significant digits, as a fit is no more precise."""
    return "never reached" if length == float("inf") else f"about {float(f'{length:.2g}'):,.0f}"


def time_breakdown(rows: list[Row]) -> str:
    """Each part's time and FLOPs, with sums by group."""
    blocks: list[str] = []
    head = ["part", "seconds", "share of time", "share of FLOPs", "time / FLOPs"]
    for row in rows:
        parts = row["parts"]
        groups = dict.fromkeys(name.partition(":")[0] for name in parts)
        lines = []
        for group in groups:
            inside = [name for name in parts if name.partition(":")[0] == group]
            if len(inside) > 1:
                lines.append(_share(f"**{group}**", [parts[name] for name in inside]))
            lines += [_share(name, [parts[name]]) for name in inside]
        scorer = [part for name, part in parts.items() if name.startswith(("features", "BAM", "compaction"))]
        lines.append(_share("**scorer: features, BAM and compaction**", scorer))
        summed = sum(part["seconds"] for part in parts.values())
        caption = (
            f"{LABELS[row['policy']]}: {row['tokens']:,} tokens in {row['seconds']:.2f} s "
            f"({row['tokens_per_second']:,.0f} tokens/s); the parts sum to "
            f"{summed / row['seconds']:.1%} of it."
        )
        blocks += [*table(head, lines), "", caption, ""]
    return "\n".join([*blocks, f"{rows[0]['budget']} slots a head, stdlib text. {made(rows)}"])


def _share(name: str, parts: list[Row]) -> list[str]:
    seconds, share, work = (sum(part[key] for part in parts) for key in ("seconds", "share", "flops_share"))
    ratio = f"{share / work:,.2f}" if work else "–"
    fine = f"{work:.1%}" if work >= 1e-3 else f"{work:.4%}"  # sorting is one FLOP in ten thousand
    return [name, f"{seconds:.2f}", f"{share:.1%}", fine if work else "–", ratio]


def packed_weights(rows: list[Row]) -> str:
    """Each kind of weights against bf16, and whether it wins at anything but size."""
    base = next(row for row in rows if row["weights"] == "bfloat16")
    head = [
        "weights",
        "layers",
        "read tokens/s",
        "write tokens/s",
        "next token as in fp32",
        "faster than bf16",
    ]
    lines = []
    for row in rows:
        speeds = ("read_tokens_per_second", "write_tokens_per_second")
        read, write = (row[name] / base[name] for name in speeds)
        wins = "yes" if min(read, write) > 1 else f"no ({read:.2f} reading, {write:.2f} writing)"
        cells = [
            row["weights"],
            f"{row['layer_bytes'] / MIB:,.0f} MiB",
            *(f"{row[name]:,.1f}" for name in speeds),
        ]
        lines.append([*cells, f"{row['agreement']:.1%}", "–" if row is base else wins])
    return "\n".join([*table(head, lines), "", f"{base['model']}. {made(rows)}"])


def guided_cost(rows: list[Row]) -> str:
    """What prompts add to the time of reading an interval."""
    head = ["policy", "prompts", "their tokens", "turns", "open", "guided", "share of the prompts"]
    lines = [
        [
            NAMES.get(row["policy"], row["policy"]),
            str(row["prompts"]),
            str(row["prompt_tokens"]),
            str(row["turns"]),
            f"{row['open_seconds']:.2f} s",
            f"{row['guided_seconds']:.2f} s",
            f"{row['probe_share']:.0%}",
        ]
        for row in rows
    ]
    first = rows[0]
    origin = f"{first['model']}, {first['budget']:,} slots, an interval of {first['interval']} tokens."
    return "\n".join([*table(head, lines), "", f"{origin} {made(rows)}"])


def eager(rows: list[Row]) -> str:
    """One interval, measured with both implementations."""
    head = [
        "slots a head",
        "eager: attention and features + scores",
        "here",
        "times as fast",
        "with eager's masks",
        "scratch, eager",
        "scratch, here",
    ]
    lines = []
    for slots in dict.fromkeys(row["slots"] for row in rows):
        sides = {row["side"]: row for row in rows if row["slots"] == slots}
        theirs, ours = sides["eager"], sides["ours"]
        lines.append(
            [
                f"{slots:,}",
                _halves(theirs),
                _halves(ours),
                f"{theirs['seconds'] / ours['seconds']:.1f}",
                f"{(theirs['seconds'] + theirs['masking_seconds']) / ours['seconds']:.1f}",
                f"{theirs['scratch_bytes'] / MIB:,.0f} MiB",
                f"{ours['scratch_bytes'] / MIB:,.0f} MiB",
            ]
        )
    row = rows[0]
    heads, kv_heads, width = row["heads"]
    caption = (
        f"One layer, {row['queries']} new queries, {heads} query heads over {kv_heads} KV heads of {width} "
        f"floats, fp32, median of {row['repeats']}. {made(rows)}"
    )
    return "\n".join([*table(head, lines), "", caption])


def _halves(row: Row) -> str:
    watching, scoring = row["watching_seconds"] * 1000, row["scoring_seconds"] * 1000
    return f"{watching:.0f} + {scoring:.0f} ms"
