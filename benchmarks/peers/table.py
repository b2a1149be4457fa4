"""The table of rivals: what each knows of the questions, its code, and wins and losses alike."""

from benchmarks.labels import LABELS, Row, made, table
from benchmarks.peers.compare import OURS_FULL, REFERENCE, THEIR_FULL
from namm_runtime.evaluate.formatting import percent, points
from namm_runtime.policies.registry import LEARNED

BLOCKS = {
    "nothing": "the questions are not known",
    "all questions": "all questions are known, one cache answers them",
    "one question": "one question is known, each has a cache of its own",
}
_PRESSES = {
    "KeyDiffPress": ("KeyDiff", "keydiff_press.py"),
    "SnapKVPress": ("SnapKV", "snapkv_press.py"),
    "TOVAPress": ("TOVA", "tova_press.py"),
    "ExpectedAttentionPress": ("ExpectedAttention", "expected_attention_press.py"),
    "FinchPress": ("Finch", "finch_press.py"),
    "KVzipPress": ("KVzip", "kvzip_press.py"),
}


def peers(rows: list[Row]) -> str:
    """One line per method, blocks by what a method knows, our policies first in each."""
    budgets = [budget for budget in dict.fromkeys(row["budget"] for row in rows) if budget]
    found = {(row["method"], row["budget"]): row for row in rows}
    head = ["method", "code"]
    for budget in budgets:
        head += [f"right, {budget} kept", f"less our KeyDiff, {budget}", "nats"]
    lines = []
    for knows, title in BLOCKS.items():
        lines.append([f"*{title}*", *[""] * (len(head) - 1)])
        methods = dict.fromkeys(row["method"] for row in rows if row["knows"] == knows and row["budget"])
        for method in sorted(methods, key=lambda method: not method.startswith("ours")):
            cells = list(named(method))
            for budget in budgets:
                row = found[method, budget]
                cells += [
                    percent(row["right"], row["right_interval"]),
                    "–" if method == REFERENCE[knows] else points(row["minus_ours"]),
                    f"{row['nats']:.2f}",
                ]
            lines.append(cells)
    return "\n".join(
        [*table(head, lines), "", _caption(rows, found[OURS_FULL, None], found[THEIR_FULL, None])]
    )


def named(method: str) -> tuple[str, str]:
    """What a method is called, and where its code is."""
    side, _, rest = method.partition(": ")
    if side.startswith("ours"):
        module = "namm" if rest in LEARNED else rest
        label = LABELS.get(rest, rest).replace("*", "").partition(" (")[0]
        return f"**{label}, ours**", f"`namm_runtime/policies/{module}.py`"
    if side == "kvpress":
        name, file = _PRESSES[rest.partition(",")[0]]
        return name, f"`kvpress/presses/{file}`"
    return method.partition(",")[0], "`bm25s.BM25`, full cache of transformers"


def _caption(rows: list[Row], ours: Row, theirs: Row) -> str:
    row, same = rows[0], theirs["same_as_ours"]
    checks = [row["same_literally"] for row in rows if "same_literally" in row]
    versions = row["versions"]
    lengths = " and ".join(f"{length:,}" for length in row["lengths"])
    return (
        f"{row['questions']} questions about {row['documents']} documents of {lengths} tokens: "
        f"{_of(ours['right_facts'])} planted facts, {_of(ours['right_several'])} that need several places. "
        f"The full cache gets {percent(ours['right'], ours['right_interval'])} right here and "
        f"{percent(theirs['right'], theirs['right_interval'])} in transformers; the two agree on "
        f"{same['same']} of {same['answers']} answers, at most {same['nats_apart']:.2f} nats apart. "
        f"Presses that share a reading agree with kvpress' own way on {sum(c['same'] for c in checks)} of "
        f"{sum(c['answers'] for c in checks)} answers about the first document. "
        "In brackets 95 % intervals, paired where they are of differences; bold where the difference is "
        f"outside of chance. {row['model']}, {row['dtype']}, kvpress {versions['kvpress']}, transformers "
        f"{versions['transformers']}, bm25s {versions['bm25s']}. {made(rows)} Measured."
    )


def _of(counted: str) -> str:
    """The total of "3 of 5"."""
    return counted.rpartition(" ")[2]
