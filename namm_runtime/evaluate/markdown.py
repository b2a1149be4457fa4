"""The report as Markdown tables."""

from typing import Any

from namm_runtime.evaluate.estimates import Row
from namm_runtime.evaluate.formatting import counted, label, percent, points
from namm_runtime.evaluate.real_markdown import real_tables

MIB = 2**20


def markdown(report: dict[str, Any]) -> str:
    """Tables by policy and budget, by task and by length, paired differences, and refusals."""
    rows = report["rows"]
    parts = [
        _policies(rows),
        _caption(report),
        _tasks(rows),
        _lengths(rows),
        _differences(rows),
        *real_tables(rows),
        _refusals(rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _policies(rows: list[Row]) -> str:
    lines = [
        "| policy | budget | score | of full cache | kept | resident / peak | tokens/s | questions (docs) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            label(row),
            row["budget"] or "all",
            percent(row["score"], row["score_interval"]),
            "100%" if row["budget"] is None else percent(row["of_full"], row["of_full_interval"]),
        ]
        if "kept_fraction" in row:
            cells += [
                f"{row['kept_fraction']:.1%}",
                f"{row['resident_bytes'] / MIB:.1f} / {row['peak_bytes'] / MIB:.1f} MiB",
                f"{row['tokens_per_second']:,}",
            ]
        else:
            cells += ["refused", "–", "–"]
        lines.append(f"| {' | '.join([*cells, counted(row)])} |")
    return "\n".join(lines)


def _caption(report: dict[str, Any]) -> str:
    rows = report["rows"]
    machine, settings, model = report["machine"], report["settings"], report["model"]
    tasks = ", ".join(settings["tasks"])
    if settings["limit"]:
        tasks += f" (the first {settings['limit']} documents of each task and length)"
    return (
        f"Model {model['name']} ({model['revision']}), {tasks}, an eviction every "
        f"{settings['interval']} tokens, {settings['positions']} positions. Score: {_score(rows)}. In "
        "brackets: 95 % intervals by resampling documents; where all documents scored alike it has no "
        "width and is too narrow. Kept: share of a document's tokens in the cache after reading, at the "
        "largest head of each layer, mean over documents; resident and peak: the largest document's. "
        f"{machine['processor']}, {settings['processes']} × {machine['threads']} threads, "
        f"torch {machine['torch']}, {machine['date']}."
    )


def _score(rows: list[Row]) -> str:
    return "planted facts" if any("real" in row for row in rows) else "mean over tasks"


def _tasks(rows: list[Row]) -> str:
    tasks = list(rows[0]["tasks"])
    if len(tasks) < 2:
        return ""
    lines = [f"| policy | budget | {' | '.join(map(_cell, tasks))} |", f"|---|---|{'---|' * len(tasks)}"]
    sizes = [f"{max(row['tasks'][task]['questions'] for row in rows)}" for task in tasks]
    lines.append(f"| questions | | {' | '.join(sizes)} |")
    for row in rows:
        cells = [percent(row["tasks"][task]["score"], row["tasks"][task]["score_interval"]) for task in tasks]
        lines.append(f"| {label(row)} | {row['budget'] or 'all'} | {' | '.join(cells)} |")
    return "By task:\n\n" + "\n".join(lines)


def _lengths(rows: list[Row]) -> str:
    lengths = list(rows[0]["lengths"])
    if len(lengths) < 2:
        return ""
    names = [f"{int(length):,} tokens" for length in lengths]
    lines = [f"| policy | budget | {' | '.join(names)} |", f"|---|---|{'---|' * len(lengths)}"]
    for row in rows:
        parts = [row["lengths"][length] for length in lengths]
        cells = [
            f"{percent(part['score'], part['score_interval'])}, n = {part['questions']}" for part in parts
        ]
        lines.append(f"| {label(row)} | {row['budget'] or 'all'} | {' | '.join(cells)} |")
    return "By length:\n\n" + "\n".join(lines)


def _differences(rows: list[Row]) -> str:
    """Each row's score minus those of the full cache and the heuristics, in points."""
    columns = list(dict.fromkeys(name for row in rows for name in row["minus"]))
    if not columns:
        return ""
    lines = [f"| policy | budget | {' | '.join(f'less {name}' for name in columns)} |"]
    lines.append(f"|---|---|{'---|' * len(columns)}")
    for row in filter(lambda row: row["minus"], rows):
        cells = [points(row["minus"].get(name)) for name in columns]
        lines.append(f"| {label(row)} | {row['budget'] or 'all'} | {' | '.join(cells)} |")
    return (
        "Differences in points on the same documents, in bold where the interval does not hold zero; the "
        "others say nothing about which policy is better:\n\n" + "\n".join(lines)
    )


def _refusals(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        for code, entry in row["refused"].items():
            cell = f"{label(row)}, {row['budget'] or 'all'}"
            lines.append(f"- {cell}: {entry['documents']} documents ({code}): {entry['for_example']}")
    return "Refused, and left out of the row's figures:\n\n" + "\n".join(lines) if lines else ""


def _cell(text: str) -> str:
    """Escape a task name, which a user's file may choose freely."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
