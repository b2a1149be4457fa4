"""The results of GPU checks and measurements, and of batch invariance, as Markdown."""

from typing import Any

from benchmarks.labels import LABELS, MIB, Row, made, table


def gpu(result: dict[str, Any]) -> str:
    """The checks in a sentence that names failed ones, and the readings in a table."""
    checks = [row for row in result["checks"] if "ok" in row]
    failed = [row for row in checks if not row["ok"]]
    said = f"{len(checks) - len(failed)} of {len(checks)} checks against double precision or the CPU passed."
    for row in failed:
        what = ", ".join(str(value) for key, value in row.items() if key != "ok")
        said += f" **Failed:** {what}."
    answers = [row for row in checks if row["check"] == "answers"]
    if answers:
        same, asked = (sum(row[name] for row in answers) for name in ("same", "questions"))
        said += f" Of {asked:,} answers of the bundled model {same:,} are the CPU's to the letter"
        said += f" ({', '.join(sorted({row['dtype'] for row in answers}))})."
    head = [
        "model",
        "policy",
        "read",
        "tokens/s",
        "at the end",
        "a token of an answer",
        "of the FLOP floor",
        "cache",
        "peak memory",
    ]
    lines = [
        [
            row["model"],
            LABELS.get(row["policy"], row["policy"]),
            f"{row['tokens']:,} of {row['asked_tokens']:,} tokens",
            f"{row['tokens_per_second']:,.0f}",
            _last(row["series"]),
            f"{row['answer_milliseconds']:,.0f} ms" if "answer_milliseconds" in row else "not measured",
            f"{row['share_of_floor']:.0%}" if row["share_of_floor"] else "–",
            f"{row['cache_bytes'] / MIB:,.0f} MiB",
            f"{row['peak_bytes'] / MIB:,.0f} MiB" if row["peak_bytes"] else "not measured",
        ]
        for row in result["readings"]
    ]
    here = result["machine"]
    versions = ", ".join(f"{name} {here[name]}" for name in ("torch", "transformers", "triton") if here[name])
    caption = f"{here['device']}, {versions}, {here['date']}. Random weights: speed and memory only. "
    caption += f"Attention: {', '.join(sorted({row['attention'] for row in result['readings']}))}. "
    caption += "At the end: over the last 16,384 tokens read. Peak memory has the weights in it."
    return "\n".join([said, "", *table(head, lines), "", caption])


def _last(series: list[list[float]]) -> str:
    """Tokens per second between the last two points (tokens, seconds) of a reading."""
    if len(series) < 2:
        return "–"
    (before, since), (tokens, until) = series[-2:]
    return f"{(tokens - before) / (until - since):,.0f}"


def batch_invariance(rows: list[Row]) -> str:
    head = ["rows in one tensor", "largest difference of a score", "changed at the first eviction"]
    head += ["changed in the cache at the end", "furthest from the cut"]
    lines = [
        [
            str(row["rows"]),
            f"{row['largest_score_difference']:.1e}",
            f"{row['changed_at_first_eviction']:.4%}",
            f"{row['changed_at_the_end']:.4%}",
            f"{row['largest_gap_to_the_cut']:.1e}",
        ]
        for row in rows
    ]
    setting = f"{rows[0]['tokens']:,} tokens a row, {rows[0]['budget']} slots a head, {rows[0]['dtype']}. "
    return "\n".join([*table(head, lines), "", setting + made(rows)])
