"""Speed and memory against the document's length: bounded caches and the full cache of plain transformers.

`python -m benchmarks.lengths '{"ids": "ids.npy", "policy": "full", "lengths": [16384, 65536]}'` reads the
first tokens of a prepared document in a separate process and prints one JSON row for every length reached. No
questions are asked. Times are those of forward passes and evictions, without generating and tokenising the
text.

The full cache is `LlamaForCausalLM` with `attn_implementation="sdpa"` and a `DynamicCache`, in chunks or
(`"chunk": null`) the whole document in one call. Beyond the model's window its output is meaningless but
costs
the same arithmetic: only speed is measured there.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.labels import Row
from benchmarks.measure import peak_rss
from benchmarks.reading_time_fit import Quadratic
from namm_runtime import policies
from namm_runtime.bundled import MODEL_DIR
from namm_runtime.engine.memory import CHUNK, Memory
from namm_runtime.machine import machine
from namm_runtime.model.loading import load_model
from namm_runtime.scorer import checkpoint
from namm_runtime.tasks.sized import document_of_tokens

Run = Callable[[Row], list[Row]]  # measures one setting of `read`, but for the ids
FULL = "full"
LENGTHS = (1 << 14, 1 << 16, 1 << 18, 1 << 20)
TRIED = (2048, 8192)  # other chunk sizes of the full cache, at the shortest length: neither is fastest
BOUNDED = ("streaming", "h2o", "namm", "namm-key")
STEP = 1 << 14  # granularity of the longest reading
POINTS_EVERY = 4096  # tokens between the points of a fit
WARM = 2 * CHUNK  # tokens of a warm-up reading


def write_ids(path: Path, tokens: int, seed: int = 0) -> None:
    """The first `tokens` token ids of a document without planted facts, as int32."""
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    text = document_of_tokens(tokenizer, tokens, 0, seed).text
    np.save(path, np.array(tokenizer.encode(text, add_special_tokens=False).ids[:tokens], dtype=np.int32))


def read(
    ids: str,
    policy: str,
    lengths: list[int],
    budget: int | None = None,
    chunk: int | None = CHUNK,
    seconds: float | None = None,
) -> list[Row]:
    """Read up to the longest length, or until `seconds` have passed (full cache only).

    Args:
        ids: file written by `write_ids`.
        lengths: in tokens, multiples of the chunk; each gives a row.
        chunk: tokens per call of the full cache; None for the whole document, with a single length.
    """
    lengths = sorted(lengths)
    document = torch.from_numpy(np.load(ids)[: lengths[-1]])
    if policy == FULL:
        rows = _read_full(document, lengths, chunk, seconds)
    else:
        rows = _read_bounded(document, policy, lengths, budget)
    made = machine()
    for row in rows:
        row["tokens_per_second"] = round(row["tokens"] / row["seconds"], 1)
        row["basis"], row["machine"] = "measured", made
    return rows


def _read_bounded(document: Tensor, name: str, lengths: list[int], budget: int | None) -> list[Row]:
    model = load_model("bundled")
    bundled = policies.scorer_of(name)
    scorer = checkpoint.load(checkpoint.resolve(bundled).path) if bundled else None

    def empty() -> Memory:
        return Memory(model, policies.make(name, budget, scorer), budget)

    empty().feed(_piece(document, 0, WARM))
    memory, before, rows = empty(), peak_rss(), []
    begun = time.perf_counter()
    for begin in range(0, lengths[-1], CHUNK):
        memory.feed(_piece(document, begin, begin + CHUNK))
        if memory.clock in lengths:
            resident = memory.cache.resident_bytes()
            rows.append(
                {
                    "policy": name,
                    "budget": budget,
                    "chunk": CHUNK,
                    "tokens": memory.clock,
                    "seconds": round(time.perf_counter() - begun, 3),
                    "kv_bytes": resident,
                    "kv_peak_bytes": resident + memory.scratch_bytes,
                    "process_before_bytes": before,
                    "process_peak_bytes": peak_rss(),
                }
            )
    return rows


@torch.inference_mode()
def _read_full(document: Tensor, lengths: list[int], chunk: int | None, seconds: float | None) -> list[Row]:
    model: Any = AutoModelForCausalLM.from_pretrained(
        MODEL_DIR, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()

    def forward(cache: DynamicCache, begin: int, end: int) -> None:
        ids = _piece(document, begin, end)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    warm = DynamicCache(config=model.config)
    for begin in range(0, WARM, CHUNK):
        forward(warm, begin, begin + CHUNK)
    cache, before, rows = DynamicCache(config=model.config), peak_rss(), []
    points: list[tuple[int, float]] = []
    step = chunk or lengths[-1]
    begun = time.perf_counter()
    for begin in range(0, lengths[-1], step):
        end = min(begin + step, lengths[-1])
        forward(cache, begin, end)
        elapsed = time.perf_counter() - begun
        struck = seconds is not None and elapsed > seconds
        if end % POINTS_EVERY == 0 or end in lengths or struck:
            points.append((end, round(elapsed, 3)))
        if end in lengths or struck:
            rows.append(
                {
                    "policy": FULL,
                    "chunk": chunk,
                    "tokens": end,
                    "seconds": round(elapsed, 3),
                    "kv_bytes": sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers),
                    "process_before_bytes": before,
                    "process_peak_bytes": peak_rss(),
                    "points": points,
                }
            )
            points = []
        if struck:
            break
    return rows


# -- which lengths -----------------------------------------------------------------------------------------


def compare(run: Run, lengths: list[int], budget: int, seconds: float, chunked: float) -> list[Row]:
    """All rows of the table: the full cache with several chunk sizes, then bounded caches."""
    whole = at_once(run, lengths[-1], seconds)
    by_chunks = run({"policy": FULL, "chunk": CHUNK, "lengths": lengths, "seconds": chunked})
    tried = [row for chunk in TRIED for row in run({"policy": FULL, "chunk": chunk, "lengths": lengths[:1]})]
    reached = sorted({*lengths, whole[-1]["tokens"], by_chunks[-1]["tokens"]})
    bounded = [row for name in BOUNDED for row in run({"policy": name, "budget": budget, "lengths": reached})]
    return [*whole, *beyond(whole, lengths), *by_chunks, *beyond(by_chunks, lengths), *tried, *bounded]


def at_once(run: Run, longest: int, seconds: float) -> list[Row]:
    """The full cache with the whole document in one call, up to readings of at most `seconds`.

    Lengths double until the fit predicts that the next one would take too long; the last one is as close to
    the limit as `STEP` and a margin of a tenth allow. The first two are always measured.
    """
    rows: list[Row] = []
    tokens = POINTS_EVERY
    while tokens <= longest:
        rows += run({"policy": FULL, "chunk": None, "lengths": [tokens]})
        if len(rows) < 2 or _fit(rows).seconds(2 * tokens) <= seconds:
            tokens *= 2
            continue
        fit = _fit(rows)
        last = max(
            (n for n in range(STEP, min(2 * tokens, longest), STEP) if fit.seconds(n) <= 0.9 * seconds),
            default=0,
        )
        if last > tokens:
            rows += run({"policy": FULL, "chunk": None, "lengths": [last]})
        break
    return rows


def beyond(measured: list[Row], lengths: list[int]) -> list[Row]:
    """Rows extrapolated by a fit for the lengths that a reading with a full cache did not reach.

    Cache bytes are derived from shapes; process memory is not extrapolated.
    """
    last = measured[-1]
    missing = [tokens for tokens in lengths if tokens > last["tokens"]]
    if not missing:
        return []
    fit = _fit(measured)
    return [
        {
            "policy": FULL,
            "chunk": last["chunk"],
            "tokens": tokens,
            "seconds": round(fit.seconds(tokens), 3),
            "kv_bytes": last["kv_bytes"] // last["tokens"] * tokens,
            "tokens_per_second": round(tokens / fit.seconds(tokens), 1),
            "basis": "derived (fit)",
            "fit": fit.to_dict(),
            "machine": last["machine"],
        }
        for tokens in missing
    ]


def _fit(rows: list[Row]) -> Quadratic:
    return Quadratic.through([tuple(point) for row in rows for point in row["points"]])


def _piece(document: Tensor, begin: int, end: int) -> Tensor:
    return document[begin:end].long().unsqueeze(0)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(read(**json.loads(sys.argv[1]))) + "\n")
