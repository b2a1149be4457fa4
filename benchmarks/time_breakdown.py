"""Reading time by part, compared with each part's share of the arithmetic.

`python -m benchmarks.time_breakdown '{"policy": "namm"}'` measures reading after all slots have filled, in a
separate process, and prints one JSON row. Functions are wrapped from here; the runtime itself has no timers
for this.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.lengths import write_ids
from benchmarks.stopwatch import Stopwatch
from namm_runtime import cache, policies
from namm_runtime.attention import bounded
from namm_runtime.attention.spectrogram import BINS, FRAME, HOP
from namm_runtime.cache import BoundedLayer
from namm_runtime.engine.memory import CHUNK, Memory
from namm_runtime.machine import machine
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.bam import Bam
from namm_runtime.scorer.checkpoint import ScorerConfig

# Parts as the table shows them: group and name.
LINEAR, ATTENTION = "model: linear layers", "model: attention"
MEAN, FOLD = "features: group mean", "features: spectrogram"
INPUTS, NETWORK = "BAM: normalise, recency", "BAM: network"
SORT, GATHER = "compaction: sort", "compaction: gather"
OTHER = "other"
PARTS = (LINEAR, ATTENTION, MEAN, FOLD, INPUTS, NETWORK, SORT, GATHER, OTHER)


def measure(policy: str, budget: int = 512, interval: int = CHUNK, tokens: int = 65_536) -> dict[str, Any]:
    """Time `tokens` tokens, a multiple of the interval, after the slots have filled."""
    model = load_model("bundled")
    scorer = checkpoint.load(checkpoint.resolve(str(policies.scorer_of(policy))).path)
    memory = Memory(model, policies.make(policy, budget, scorer), budget, interval)
    filling = (-(-budget // interval) + 2) * interval
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ids.npy"
        write_ids(path, filling + tokens)
        ids = torch.from_numpy(np.load(path)).long().unsqueeze(0)
    for piece in ids[:, :filling].split(CHUNK, dim=1):
        memory.feed(piece)
    begun = time.perf_counter()
    watch = timed(memory, ids[:, filling:])
    total = time.perf_counter() - begun
    work = flops(model, scorer.config, budget, interval)
    return {
        "policy": policy,
        "budget": budget,
        "interval": interval,
        "tokens": tokens,
        "seconds": round(total, 4),
        "tokens_per_second": round(tokens / total, 1),
        "parts": breakdown(
            watch.seconds, {part: count * (tokens // interval) for part, count in work.items()}
        ),
        "machine": machine(),
    }


def timed(memory: Memory, ids: Tensor, watch: Stopwatch | None = None) -> Stopwatch:
    """Read ids [1, T] and time the parts."""
    watch = watch or Stopwatch()
    calls = (
        (memory.model.model, "forward", LINEAR),
        (bounded, "_rotate", ATTENTION),
        (BoundedLayer, "update", ATTENTION),
        (Namm, "observe", FOLD),
        (Namm, "scores", INPUTS),
        (Bam, "score", NETWORK),
        (BoundedLayer, "compact", SORT),
        (cache, "_gather_to_front", GATHER),
    )
    attend = _attend_timed(bounded._attend, memory, watch)
    with watch.watching(*calls), patch.object(bounded, "_attend", attend):
        for piece in ids.split(CHUNK, dim=1):
            with watch.part(OTHER):
                memory.feed(piece)
    return watch


def _attend_timed(attend: Callable[..., None], memory: Memory, watch: Stopwatch) -> Callable[..., None]:
    """Attention without the time for columns, which the context counts and which includes the fold."""

    def call(*args: Any, **kwargs: Any) -> None:
        watched, folded = memory.context.watch_seconds, watch.seconds[FOLD]
        with watch.part(ATTENTION):
            attend(*args, **kwargs)
        columns = memory.context.watch_seconds - watched
        watch.move(ATTENTION, MEAN, columns - (watch.seconds[FOLD] - folded))

    return call


def flops(model: LoadedModel, scorer: ScorerConfig, budget: int, interval: int) -> dict[str, float]:
    """FLOPs of one interval, computed from shapes, once `budget` slots are full.

    Counted are multiplications, additions, comparisons, and each exponential, root, sine or cosine as one.
    Only necessary work counts, not padding: a query attends to the kept slots and the tokens of its interval
    up to itself, and in BAM a token attends to itself and newer ones. Not counted are norms, activations and
    embeddings of the model (below 2 % of its products), masks and copies, so gathering slots counts as zero.
    """
    config = model.config
    layers, heads, kv_heads = (
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
    )
    width, group = model.head_width, model.head_group
    products = sum(p.numel() for p in model.model.get_decoder().layers.parameters() if p.dim() == 2)
    logits = config.vocab_size * config.hidden_size * math.ceil(interval / CHUNK)
    pairs = interval * (budget + (interval + 1) / 2)  # of a query and a slot, one head
    slots = budget + interval  # at an eviction
    passes = math.ceil(interval / CHUNK)
    rotated = sum(min(CHUNK * (index + 1), interval) + budget for index in range(passes))
    # Products with keys and values; scale, subtract the largest, exponential, sum, divide.
    attention_ = heads * pairs * (4 * width + 5) + 3 * width * (heads * interval + kv_heads * rotated)
    frame = 2 * 2 * BINS * FRAME + 4 * BINS + 2 * BINS  # DFT, magnitudes, weighted sum
    angles = 3 * scorer.recency_floats // 2  # product, sine and cosine
    inputs = 2 * BINS + angles + (6 * width if scorer.key_input else 0)
    features, hidden, out = scorer.features, scorer.width, scorer.features * (2 if scorer.multiply else 1)
    a_token = 2 * features * 3 * hidden + 2 * hidden * out + 3 * features + 2 * features
    network = slots * a_token + slots * (slots + 1) / 2 * (4 * hidden + 5)
    comparisons = slots * math.log2(slots) + budget * math.log2(budget)
    return {
        LINEAR: 2.0 * (products * interval + logits),
        ATTENTION: float(layers * attention_),
        MEAN: float(layers * kv_heads * group * pairs),
        FOLD: float(layers * kv_heads * pairs / HOP * frame),
        INPUTS: float(layers * kv_heads * slots * inputs),
        NETWORK: float(layers * kv_heads * network),
        SORT: float(layers * kv_heads * comparisons),
        GATHER: 0.0,
        OTHER: 0.0,
    }


def breakdown(seconds: dict[str, float], work: dict[str, float]) -> dict[str, dict[str, float | None]]:
    """Each part's seconds and FLOPs, their shares of the total, and the ratio of the two shares."""
    total, all_work = sum(seconds.values()), sum(work.values())
    parts: dict[str, dict[str, float | None]] = {}
    for name in PARTS:
        time_share, work_share = seconds.get(name, 0.0) / total, work[name] / all_work
        parts[name] = {
            "seconds": round(seconds.get(name, 0.0), 4),
            "share": round(time_share, 5),
            "flops": work[name],
            "flops_share": round(work_share, 6),
            "ratio": round(time_share / work_share, 3) if work_share else None,
        }
    return parts


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
