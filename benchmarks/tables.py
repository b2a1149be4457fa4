"""Render the committed results as Markdown, between markers in README and docs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import digest, quality_tables, speed_tables
from benchmarks.gpu import tables as gpu_tables
from benchmarks.labels import LABELS, MIB, Row, made, table
from benchmarks.peers import table as peer_table
from namm_runtime.evaluate.markdown import markdown

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
FIGURE = ROOT / "docs" / "reference" / "quality.svg"
BUDGET = 512


def policies(rows: list[Row]) -> str:
    lines = [
        "| policy | facts found | tokens/s | KV kept | KV resident / peak | full cache | reading time |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            LABELS[row["policy"]],
            f"{row['found']} of {row['asked']}",
            f"{row['tokens_per_second']:,}",
            f"{row['kept_fraction']:.2%}",
            f"{row['resident_bytes'] / MIB:.1f} / {row['peak_bytes'] / MIB:.1f} MiB",
            f"{row['dense_bytes'] / MIB:,.0f} MiB",
            f"{row['read_seconds']:.0f} s",
        )
        lines.append(f"| {' | '.join(cells)} |")
    caption = f"{rows[0]['tokens']:,} tokens, {rows[0]['budget']} slots a head, {_origin(rows)}"
    return "\n".join([*lines, "", caption])


def slots(rows: list[Row]) -> str:
    budgets = sorted({row["budget"] for row in rows})
    lines = [
        f"| slots a head | {' | '.join(map(str, budgets))} |",
        f"|---{'|---' * len(budgets)}|",
    ]
    for policy in dict.fromkeys(row["policy"] for row in rows):
        here = {row["budget"]: row for row in rows if row["policy"] == policy}
        cells = [
            f"{here[b]['found']} of {here[b]['asked']}, {here[b]['tokens_per_second']:,} tokens/s"
            for b in budgets
        ]
        lines.append(f"| {LABELS[policy]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{rows[0]['tokens']:,} tokens, {_origin(rows)}"])


def memory(rows: list[Row]) -> str:
    lines = [
        "| document | peak memory of the process | of which while reading | KV resident |",
        "|---|---|---|---|",
    ]
    for row in rows:
        rise = row["process_peak_bytes"] - row["process_before_bytes"]
        lines.append(
            f"| {row['tokens']:,} tokens | {row['process_peak_bytes'] / MIB:,.0f} MiB "
            f"| {rise / MIB:+,.0f} MiB | {row['resident_bytes'] / MIB:.1f} MiB |"
        )
    growth = (rows[-1]["process_peak_bytes"] - rows[0]["process_peak_bytes"]) / MIB
    caption = (
        f"From {rows[0]['tokens']:,} to {rows[-1]['tokens']:,} tokens the peak grew by {growth:.0f} MiB. "
    )
    return "\n".join([*lines, "", f"{caption}{rows[0]['budget']} slots a head, {_origin(rows)}"])


def resume(rows: list[Row]) -> str:
    lines = [
        "| document | saved at | straight through | in two processes | snapshot | answers and cache |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        first, second = row["seconds_in_two"]
        lines.append(
            f"| {row['tokens']:,} tokens | {row['saved_at']:,} | {row['seconds']:.0f} s "
            f"| {first:.0f} + {second:.0f} s | {row['snapshot_bytes'] / MIB:.1f} MiB "
            f"| {'identical' if row['identical'] else 'differ: ' + ', '.join(row['differs'])} |"
        )
    made = rows[0]["machine"]
    caption = (
        f"{rows[0]['policy']}, {rows[0]['answers']} answers of {rows[0]['answer_tokens']} tokens sampled at "
        f"temperature {rows[0]['temperature']:g}. {made['processor']}, {rows[0]['threads']} thread, "
        f"torch {made['torch']}, {made['date']}. Measured."
    )
    return "\n".join([*lines, "", caption])


def reports(rows: list[Row]) -> str:
    """Times of queries on a ledger, with their query plans."""
    row = rows[0]
    lines = [
        [
            f"{row['days']} days by day, {' × '.join(row['groups'])}, {len(row['metrics'])} figures",
            f"{1000 * row['report_seconds']:.0f} ms",
        ],
        ["one job's bill", f"{1000 * row['bill_seconds']:.1f} ms"],
        [f"all {row['bills']:,} bills rebuilt", f"{row['rebuild_seconds']:.0f} s"],
    ]
    caption = (
        f"{row['rows']:,} ledger rows in the embedded PostgreSQL {row['postgres']}; medians of "
        f"{row['repeats']}, through the store's own functions. {made(rows)} Measured."
    )
    plans = [
        f"<details><summary>EXPLAIN of the {what}</summary>\n\n```\n{chr(10).join(plan)}\n```\n\n</details>"
        for what, plan in (("report", row["report_plan"]), ("bill", row["bill_plan"]))
    ]
    return "\n".join([*table(["question", "time"], lines), "", caption, "", *plans])


def swap(rows: list[Row]) -> str:
    """The delay until an activated scorer version serves."""
    loads = {
        "idle": "waits: a job comes with the swap",
        "busy": "always has work: at its next claim",
    }
    lines = [
        [
            loads[row["load"]],
            f"{1000 * row['median_seconds']:.0f} ms",
            f"{1000 * row['max_seconds']:.0f} ms",
        ]
        for row in rows
    ]
    caption = (
        f"{rows[0]['swaps']} swaps each, to versions new to the worker: fetching and checking are in it. "
        f"Documents of {rows[0]['document_bytes']:,} bytes, the default slots, {made(rows)} Measured."
    )
    return "\n".join([*table(["the worker", "median", "longest"], lines), "", caption])


def throughput(rows: list[Row]) -> str:
    """Documents per minute through one worker."""
    head = ["what is read", "slots", "cores for each", "documents/minute", "tokens/s", "answers"]
    answers: dict[int, str] = {}
    lines = []
    for row in rows:
        first = answers.setdefault(row["documents"], row["answers"])
        what = f"{row['documents']} documents" if row["documents"] > 1 else "one document"
        lines.append(
            [
                f"{what}, {row['tokens']:,} tokens",
                str(row["slots"]),
                str(row["cores_each"]),
                f"{row['documents_per_minute']:,.1f}",
                f"{row['tokens_per_second']:,}",
                "the same" if row["answers"] == first else "others",
            ]
        )
    caption = f"Policy namm-key, 4 questions each; all jobs succeeded. One run, {made(rows)} Measured."
    return "\n".join([*table(head, lines), "", caption])


def bulk(rows: list[Row]) -> str:
    """Bulk jobs while processes are killed."""
    head = [
        "engine",
        "documents",
        "kills",
        "lost",
        "doubled",
        "in order",
        "wrong",
        "minutes",
        "documents/minute",
    ]
    lines = [
        [
            row["engine"],
            f"{row['documents']:,}",
            str(row["kills"]),
            str(row["lost"]),
            str(row["doubled"]),
            "yes" if row["in_order"] else "no",
            str(row["wrong"]),
            f"{row['seconds'] / 60:.1f}",
            f"{row['documents_per_minute']:,.0f}",
        ]
        for row in rows
    ]
    return "\n".join([*table(head, lines), "", f"One run each, {made(rows)} Measured."])


def schedules(rows: list[Row]) -> str:
    """How late schedules fire."""
    phases = {
        "two alive": "both alive",
        "one killed": "one killed while the runs of the first minute were made",
    }
    head = ["schedules", "schedulers", "minutes", "runs due", "made", "doubled", "missed"]
    head += ["made and queued: median / 95% / longest", "a worker has it: median / 95% / longest"]
    lines = [
        [
            str(row["schedules"]),
            phases[row["phase"]],
            str(row["minutes"]),
            *(str(row[name]) for name in ("expected", "runs", "doubled", "missed")),
            *(_lateness(row[stage]) for stage in ("queued", "begun")),
        ]
        for row in rows
    ]
    caption = (
        f"Schedules of {rows[0]['tenants']} tenants, all due every minute; seconds after that time. "
        f"One run each, {made(rows)} Measured."
    )
    return "\n".join([*table(head, lines), "", caption])


def _lateness(spread: dict[str, float]) -> str:
    return f"{spread['median']:.1f} / {spread['p95']:.1f} / {spread['longest']:.1f} s"


def shortcuts(rows: list[Row]) -> str:
    """Gains and costs of longer intervals, and of policies that observe fewer queries."""
    head = ["policy", "evicts every", "sees", "facts found", "tokens/s", "KV resident / peak"]
    lines = [
        [
            LABELS[row["policy"]],
            f"{row['interval']:,} tokens",
            f"the last {row['watch_last']} queries" if row["watch_last"] else "every query",
            f"{row['found']} of {row['asked']}",
            f"{row['tokens_per_second']:,}",
            f"{row['resident_bytes'] / MIB:.1f} / {row['peak_bytes'] / MIB:.1f} MiB",
        ]
        for row in rows
    ]
    caption = f"{rows[0]['tokens']:,} tokens, {rows[0]['budget']} slots a head, {_origin(rows)}"
    return "\n".join([*table(head, lines), "", caption])


def _origin(rows: list[Row]) -> str:
    """The text that was read and the machine, which all rows must share."""
    row = rows[0]
    return (
        f"{row['filler']} text, {row['asked']} planted facts, one run, seed {row['seed']}. {made(rows)} "
        "Found, time and memory of the process are measured; bytes of caches are derived from the shapes "
        "allocated."
    )


def evaluation(report: dict[str, Any]) -> str:
    return markdown(report).rstrip()


SOURCES = {
    "headline": ("quality",),
    "summary": ("policies", "quality"),
}  # blocks that are rendered from other blocks' results

TABLES: dict[str, Callable[..., str]] = {
    "policies": policies,
    "slots": slots,
    "memory": memory,
    "resume": resume,
    "shortcuts": shortcuts,
    "lengths": speed_tables.lengths,
    "time_breakdown": speed_tables.time_breakdown,
    "packed_weights": speed_tables.packed_weights,
    "guided_cost": speed_tables.guided_cost,
    "peers": peer_table.peers,
    "eager": speed_tables.eager,
    "reports": reports,
    "swap": swap,
    "throughput": throughput,
    "bulk": bulk,
    "digest": digest.render,
    "schedules": schedules,
    "batch_invariance": gpu_tables.batch_invariance,
    "gpu": gpu_tables.gpu,
    "headline": quality_tables.headline,
    "summary": quality_tables.summary,
    "seeds": quality_tables.seeds,
    "separability": quality_tables.separability,
    "quality": evaluation,
    "transfer": evaluation,
    "long": evaluation,
    "real_guided": evaluation,
    "real_open": evaluation,
}


def render() -> list[Path]:
    """Rewrite every `<!-- benchmark: NAME -->` block whose result exists. Returns the files with blocks."""
    changed = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        before = path.read_text()
        if "<!-- benchmark:" in before:
            path.write_text(filled(before))
            changed.append(path)
    return changed


def filled(text: str) -> str:
    """The text with every block rendered from the committed results."""
    for name, make in TABLES.items():
        files = [RESULTS / f"{source}.json" for source in SOURCES.get(name, (name,))]
        if all(file.exists() for file in files):
            made_of = (json.loads(file.read_text()) for file in files)
            block = f"<!-- benchmark: {name} -->\n{make(*made_of)}\n<!-- end -->"
            pattern = rf"<!-- benchmark: {name} -->.*?<!-- end -->"
            text = re.sub(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
    return text
