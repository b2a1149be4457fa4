"""A double-precision oracle for attention and spectrogram, head by head, and the errors of faster ones.

Written to be obviously correct: no tiles, no log-sum-exp merging, `torch.stft` instead of a product. The
tests compare results of the CPU and of Triton's interpreter with it, `benchmarks.gpu` those of a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from namm_runtime.attention.columns import ColumnSource, Fold
from namm_runtime.attention.flash import Kernel, plain
from namm_runtime.attention.spectrogram import BINS, HOP, Spectrogram
from namm_runtime.attention.two_pass import attend
from namm_runtime.cache import BoundedLayer

GAMMA = 0.99


@dataclass(frozen=True)
class Case:
    """Random queries and keys over ragged heads, with exact results in double precision.

    Attributes:
        source: query [B, Hq, n, D], key [B, Hkv, C, D] and the exact log-sum-exp in fp32.
        value: [B, Hkv, C, D].
        columns: [B, Hkv, n, seen] fp64, output: [B, n, Hq, D] fp64.
        used: [B, Hkv, seen] bool, slots that hold a token.
    """

    source: ColumnSource
    value: Tensor
    columns: Tensor
    output: Tensor
    used: Tensor


def make_case(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    width: int = 64,
    group: int = 4,
    start: int = 90,
    pending: int = 80,
    queries: int = 64,
    heads: int = 2,
    batch: int = 2,
    seed: int = 0,
) -> Case:
    """Keys with an attention sink; heads that keep between a third and all of `start` slots."""
    generator = torch.Generator().manual_seed(seed)
    seen, capacity = start + pending, start + pending + 7

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    query = normal(batch, heads * group, queries, width)
    key, value = normal(2, batch, heads, capacity, width)
    query[..., 0] += 2
    key[:, :, 0, 0] += 3 * width**0.5 / 2  # the sink
    lengths = torch.randint(start // 3, start + 1, (batch, heads), generator=generator)
    lengths[-1, -1] = start  # some head is the longest
    query, key, value = (tensor.to(device, dtype) for tensor in (query, key, value))
    lengths = lengths.to(device)
    lse = torch.zeros(batch, heads * group, queries, device=device)
    source = ColumnSource(query, key, lse, width**-0.5, lengths, start, seen)
    columns, output, exact_lse = dense(source, value)
    lse.copy_(exact_lse)
    slots = torch.arange(seen, device=device)
    used = (slots < lengths.unsqueeze(-1)) | (slots >= start)
    return Case(source, value, columns, output, used)


def dense(source: ColumnSource, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns [B, Hkv, n, seen], output [B, n, Hq, D] and log-sum-exp [B, Hq, n], all fp64, head by head."""
    query, key = source.query.double(), source.key.double()
    batch, q_heads, queries, width = query.shape
    seen, group = source.seen, source.group
    slots = torch.arange(seen, device=query.device)
    own = torch.arange(seen - queries, seen, device=query.device).unsqueeze(-1)
    columns = query.new_zeros(batch, key.shape[1], queries, seen)
    output = query.new_zeros(batch, queries, q_heads, width)
    lse = query.new_zeros(batch, q_heads, queries)
    for b in range(batch):
        for h in range(q_heads):
            kept = slots < source.lengths[b, h // group]
            visible = kept | ((slots >= source.start) & (slots <= own))
            scores = query[b, h] @ key[b, h // group, :seen].T * source.scaling
            scores = scores.masked_fill(~visible, -torch.inf)
            weights = scores.softmax(dim=-1)
            columns[b, h // group] += weights / group
            output[b, :, h] = weights @ value[b, h // group, :seen].double()
            lse[b, h] = scores.logsumexp(dim=-1)
    return columns, output, lse


def spectrum(columns: Tensor, gamma: float = GAMMA) -> Tensor:
    """[…, n, N] → [B, H, N, 17] by torch.stft over the whole series from an empty state, in fp64."""
    series = torch.nn.functional.pad(columns.double().transpose(-1, -2), (HOP, 0))
    window = torch.hann_window(2 * HOP, periodic=True, dtype=torch.float64, device=columns.device)
    frames = torch.stft(series.flatten(0, 2), 2 * HOP, HOP, window=window, center=False, return_complex=True)
    fade = gamma**HOP
    ages = torch.arange(frames.shape[-1] - 1, -1, -1, dtype=torch.float64, device=columns.device)
    return ((1 - fade) * fade**ages * frames.abs()).sum(-1).view(*series.shape[:3], BINS)


def fold_error(fold: Fold, case: Case, **options: Any) -> float:
    """Error of a second pass from an empty state, in spectrum or carry, relative to the largest value."""
    source = case.source
    shape = source.key.shape[:3]
    ema, carry = (torch.zeros(*shape, floats, device=source.key.device) for floats in (BINS, HOP))
    fold(Spectrogram(GAMMA), source, ema, carry, **options)
    exact = (spectrum(case.columns), case.columns[:, :, -HOP:].transpose(-1, -2))
    return max(
        relative(ours[:, :, : source.seen], theirs, case.used)
        for ours, theirs in zip((ema, carry), exact, strict=True)
    )


def layer_of(case: Case) -> BoundedLayer:
    """A cache layer with the state of a case."""
    given = case.source
    layer = BoundedLayer(given.start, given.key.shape[2] - given.start, {})
    layer.lazy_initialization(given.key, case.value)
    layer.keys, layer.values, layer.lengths = given.key, case.value, given.lengths
    layer.start, layer.pending = given.start, given.seen - given.start
    return layer


def attention_errors(kernel: Kernel, case: Case) -> tuple[float, float]:
    """Relative error of the output of two merged calls, and absolute error of the log-sum-exp."""
    given = case.source
    output, source = attend(kernel, given.query, given.key, layer_of(case), given.scaling, given.seen)
    exact = dense(given, case.value)[2]
    return relative(output, case.output), float((source.lse - exact).abs().max())


def error_through_evictions(
    fold: Fold, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, width: int = 32
) -> float:
    """The largest relative error over four updates of 48 queries, with random evictions in between.

    It covers that state moves with its tokens, that heads become ragged, and that new keys start from zero.
    """
    generator = torch.Generator().manual_seed(5)
    ours, exact = (BoundedLayer(64, 48, Spectrogram.state) for _ in range(2))
    spectrogram, worst = Spectrogram(GAMMA), 0.0
    for _ in range(4):
        query, key, value = (
            torch.randn(2, heads, 48, width, generator=generator).to(device, dtype) for heads in (4, 2, 2)
        )
        for layer, precision in ((ours, dtype), (exact, torch.float64)):
            layer.update(key.to(precision), value.to(precision))
        exact.state = {name: tensor.double() for name, tensor in exact.state.items()}
        _, source = attend(plain, query, ours.keys, ours, width**-0.5, ours.used)
        fold(spectrogram, source, ours.state["ema"], ours.state["carry"])
        columns, _, _ = dense(source, ours.values)
        Spectrogram(GAMMA).fold(columns, *(exact.state[name][:, :, : exact.used] for name in exact.state))
        for name in exact.state:
            mine, theirs = (layer.state[name][:, :, : layer.used] for layer in (ours, exact))
            worst = max(worst, relative(mine, theirs, ~ours.unused()))
        scores = torch.randn(2, 2, ours.used, generator=generator).to(device)
        scores[..., -1] = torch.inf
        for layer in (ours, exact):
            layer.compact(scores.clone(), threshold=-0.3)
    return worst


def causal_error(
    causal: Callable[..., Tensor], device: torch.device | str = "cpu", tokens: int = 300, width: int = 32
) -> float:
    """Relative error of a scorer's attention over newer tokens, some of which resemble attention sinks."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, tokens, 3 * width, generator=generator)
    x[:, :, ::50, : 2 * width] *= 20
    query, key, value = x.to(device).chunk(3, dim=-1)
    scores = query.double() @ key.double().transpose(-1, -2) * width**-0.5
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=device).triu_(1)
    exact = scores.masked_fill(later, -torch.inf).softmax(-1) @ value.double()
    return relative(causal(query, key, value), exact)


def relative(ours: Tensor, exact: Tensor, used: Tensor | None = None) -> float:
    """Largest difference relative to the largest value, over used slots [B, H, N] if given. Keeps NaN."""
    difference = (ours.double() - exact).abs()
    if used is not None:
        difference, exact = difference[used], exact[used]
    return float(difference.max() / exact.abs().max())
