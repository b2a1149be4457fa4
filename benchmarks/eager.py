"""Features and scores, compared with an implementation that materialises attention, as the reference does.

`python -m benchmarks.eager '{"side": "eager", "slots": 8192}'` times one interval of one layer in a separate
process and prints a JSON row: attention of 512 new queries over the cache, the features of every slot, and a
score for every slot. Both sides get the same unrotated queries, keys and values and the same state of earlier
intervals, and give the same output, state and scores; a test requires agreement to 1e-4.

The eager side follows the method's equations (arXiv 2410.13166): the softmax of all queries × slots, its mean
over each group of heads, a short-time Fourier transform of every slot's row, and backward attention with a
slots × slots mask. It is vectorised over heads and slots, uses the same number of threads and the same dtype,
and works in place where possible. Its masks are timed separately: the reference builds them at every update,
but a cache of constant size could build them once.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import peak_rss
from namm_runtime.attention.bounded import bounded_attention
from namm_runtime.attention.context import Context
from namm_runtime.attention.rope import Rotation
from namm_runtime.attention.spectrogram import BINS, FRAME, HOP
from namm_runtime.cache import BoundedCache
from namm_runtime.machine import machine
from namm_runtime.model.loading import load_model
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.bam import linear
from namm_runtime.scorer.checkpoint import Scorer

QUERIES = 512


@dataclass(frozen=True)
class Case:
    """One layer at the end of an interval, before its scores.

    Attributes:
        query: [1, Hq, n, D] of the newest n tokens, not rotated.
        key, value: [1, Hkv, N, D], the kept slots and the n new ones, not rotated.
        positions: [1, Hkv, N] positions in the text, ascending.
        ema: [1, Hkv, N, 17], carry: [1, Hkv, N, 16]; zero for the new slots.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    positions: Tensor
    ema: Tensor
    carry: Tensor
    rotation: Rotation
    scorer: Scorer

    @property
    def scaling(self) -> float:
        return float(self.query.shape[-1] ** -0.5)


@dataclass(frozen=True)
class Result:
    """Output [1, n, Hq, D], ema and carry as in `Case`, scores [1, Hkv, N], and the seconds of each step."""

    output: Tensor
    ema: Tensor
    carry: Tensor
    scores: Tensor
    watching: float
    scoring: float
    masking: float = 0.0


def make_case(
    slots: int,
    scorer: Scorer,
    rotation: Rotation,
    heads: int = 4,
    kv_heads: int = 2,
    width: int = 32,
    queries: int = QUERIES,
) -> Case:
    """Random queries, keys and values over `slots` kept slots, with a random state of earlier attention."""
    generator = torch.Generator().manual_seed(0)
    seen = slots + queries

    def normal(heads: int, tokens: int) -> Tensor:
        return torch.randn(1, heads, tokens, width, generator=generator)

    ema = torch.rand(1, kv_heads, seen, BINS, generator=generator) / slots
    carry = torch.rand(1, kv_heads, seen, HOP, generator=generator) / slots
    ema[:, :, slots:] = carry[:, :, slots:] = 0
    positions = torch.arange(seen) * 3
    positions[slots:] = positions[slots] + torch.arange(queries)
    return Case(
        normal(heads, queries),
        normal(kv_heads, seen),
        normal(kv_heads, seen),
        positions.expand(1, kv_heads, seen).contiguous(),
        ema,
        carry,
        rotation,
        scorer,
    )


class Ours:
    """The runtime's implementation: a bounded layer, its attention function, its policy."""

    def __init__(self, case: Case) -> None:
        queries, seen = case.query.shape[2], case.key.shape[2]
        self.case, self.policy = case, Namm(case.scorer)
        self.cache = BoundedCache(1, seen - queries, queries, self.policy.state)
        layer = self.cache.layers[0]
        layer.lazy_initialization(case.key, case.value)
        layer.keys, layer.values, layer.positions = case.key, case.value, case.positions
        layer.lengths.fill_(seen - queries)
        layer.start, layer.pending, layer.clock = seen - queries, queries, int(case.positions[0, 0, -1]) + 1
        layer.state = {"ema": case.ema.clone(), "carry": case.carry.clone()}
        self.context = Context(self.cache, self.policy, case.rotation, by_slot=True)

    def interval(self) -> Result:
        case, layer = self.case, self.cache.layers[0]
        begun = time.perf_counter()
        output, _ = bounded_attention(
            SimpleNamespace(layer_idx=0),  # type: ignore[arg-type]
            case.query,
            case.key,
            case.value,
            None,
            case.scaling,
            self.context,
        )
        watched = time.perf_counter()
        scores = self.policy.scores(layer)
        done = time.perf_counter()
        state = layer.state
        return Result(output, state["ema"], state["carry"], scores, watched - begun, done - watched)


class Eager:
    """The eager implementation, from the whole attention matrix."""

    def __init__(self, case: Case) -> None:
        self.case = case
        config, queries = case.scorer.config, case.query.shape[2]
        self.ema, self.carry = case.ema.clone(), case.carry.clone()
        samples, bins = torch.arange(FRAME).double(), torch.arange(BINS).double()
        turns = 2 * math.pi * samples.unsqueeze(-1) * bins / FRAME
        window = torch.hann_window(FRAME, periodic=True, dtype=torch.float64).unsqueeze(-1)
        self.cosines, self.sines = (window * turns.cos()).float(), (window * turns.sin()).float()
        self.fade = config.gamma**HOP
        frames = queries // HOP
        self.ages = (1 - self.fade) * self.fade ** torch.arange(frames - 1, -1, -1)
        half = config.recency_floats // 2
        self.frequencies = config.recency_base ** (-torch.arange(half).double() / half)

    def interval(self) -> Result:
        queries, seen = self.case.query.shape[2], self.case.key.shape[2]
        begun = time.perf_counter()
        causal = torch.full((queries, seen), -torch.inf).triu_(seen - queries + 1)
        backward = torch.full((seen, seen), -torch.inf).tril_(-1)  # a token sees itself and newer ones
        masked = time.perf_counter()
        output = self._watch(causal)
        watched = time.perf_counter()
        scores = self._score(backward)
        done = time.perf_counter()
        seconds = (watched - masked, done - watched, masked - begun)
        return Result(output, self.ema, self.carry, scores, *seconds)

    def _watch(self, causal: Tensor) -> Tensor:
        """Attention of every query to every slot, and the spectrum of each slot's row over time."""
        case = self.case
        _, q_heads, queries, _ = case.query.shape
        _, heads, seen, _ = case.key.shape
        group = q_heads // heads
        query = case.rotation.rotate_range(case.query, seen - queries)
        key = case.rotation.rotate_range(case.key, 0).repeat_interleave(group, dim=1)
        logits = (query @ key.transpose(-1, -2)).mul_(case.scaling).add_(causal)
        attention = logits.softmax(dim=-1)
        output = (attention @ case.value.repeat_interleave(group, dim=1)).transpose(1, 2)
        rows = attention.view(1, heads, group, queries, seen).mean(dim=2).transpose(-1, -2)
        series = torch.cat((self.carry, rows), dim=-1)  # [1, Hkv, N, 16 + n]
        # Two products, which took half as long as torch.stft on the CPUs where this was measured.
        framed = series.unfold(-1, FRAME, HOP).reshape(-1, FRAME)
        real, imaginary = framed @ self.cosines, framed @ self.sines
        magnitude = real.square_().add_(imaginary.square_()).sqrt_().view(1, heads, seen, -1, BINS)
        latest = (magnitude * self.ages.unsqueeze(-1)).sum(dim=-2)
        self.ema = latest + self.fade ** len(self.ages) * self.ema
        self.carry = series[..., -HOP:].contiguous()
        return output

    def _score(self, backward: Tensor) -> Tensor:
        """Recency and normalised spectrum through backward attention memory, in text order."""
        case, config = self.case, self.case.scorer.config
        age = case.positions[..., -1:] - case.positions
        if config.recency_clip is not None:
            age = age.clamp(max=config.recency_clip)
        angle = age.unsqueeze(-1) * self.frequencies
        spectrum = (self.ema - case.scorer.mean) / case.scorer.deviation
        x = torch.cat((angle.sin().float(), angle.cos().float(), spectrum), dim=-1)
        network = config.bam
        parameters = network.split(case.scorer.parameters)
        q, k, v = linear(x, parameters, "attn.qkv").chunk(3, dim=-1)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=backward)
        residual, multiplier = linear(attended, parameters, "attn.out").chunk(2, dim=-1)
        return linear(x * (1 + multiplier) + residual, parameters, "head").squeeze(-1)


SIDES: dict[str, Callable[[Case], Ours | Eager]] = {"ours": Ours, "eager": Eager}


@torch.inference_mode()
def measure(side: str, slots: int, repeats: int = 9) -> dict[str, Any]:
    """Median seconds of one interval without masks, and the increase of peak memory during the first one.

    The increase includes temporaries, masks, buffers kept for the next interval, and results, but not
    one-time allocations of libraries, which a small case triggers before.
    """
    model = load_model("bundled")
    config = model.config
    shape = (config.num_attention_heads, config.num_key_value_heads, model.head_width)
    scorer = checkpoint.load(checkpoint.resolve("namm").path)
    SIDES[side](make_case(64, scorer, model.rotation, *shape)).interval()
    case = make_case(slots, scorer, model.rotation, *shape)
    before = _restart_peak()
    runner = SIDES[side](case)
    runner.interval()
    rise = peak_rss() - before
    times = [runner.interval() for _ in range(repeats)]
    return {
        "side": side,
        "slots": slots,
        "queries": QUERIES,
        "heads": shape,
        "watching_seconds": round(statistics.median(result.watching for result in times), 6),
        "scoring_seconds": round(statistics.median(result.scoring for result in times), 6),
        "masking_seconds": round(statistics.median(result.masking for result in times), 6),
        "seconds": round(statistics.median(result.watching + result.scoring for result in times), 6),
        "repeats": repeats,
        "scratch_bytes": rise,
        "machine": machine(),
    }


def _restart_peak() -> int:
    """Reset the high-water mark of resident memory (Linux) → its new value in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_rss()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
