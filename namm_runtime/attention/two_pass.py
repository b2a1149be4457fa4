"""Attention on a GPU: two flash calls merged by their log-sum-exp, then a second pass for the policy.

Kept slots have a different length in every head and need no causal mask; pending tokens are causal and have
the same length everywhere. Flash kernels support each of the two calls, so no queries × cache mask is built.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from namm_runtime.attention.backends import Backend
from namm_runtime.attention.columns import ColumnSource
from namm_runtime.attention.flash import Kernel
from namm_runtime.attention.spectrogram import HOP
from namm_runtime.cache import BoundedLayer

if TYPE_CHECKING:
    from namm_runtime.attention.context import Context


def two_pass_attention(
    query: Tensor, key: Tensor, layer: BoundedLayer, context: "Context", backend: Backend, scaling: float
) -> Tensor:
    """Attend query [B, Hq, T, D] over the layer's slots → [B, T, Hq, D], and show the policy the columns.

    Args:
        query: rotated, of the newest T tokens.
        key: [B, Hkv, C, D] rotated, for the layer's whole capacity.
    """
    output, source = attend(backend.kernel, query, key, layer, scaling, layer.used)
    scratch = key.nbytes + 3 * query.nbytes + 8 * output.numel() + 2 * source.lse.nbytes
    context.scratch_bytes = max(context.scratch_bytes, scratch)
    if context.policy.observes:
        begun = time.perf_counter()
        _watch(source, layer, context, backend)
        context.watch_seconds += time.perf_counter() - begun
    return output


def attend(
    kernel: Kernel, query: Tensor, key: Tensor, layer: BoundedLayer, scaling: float, seen: int
) -> tuple[Tensor, ColumnSource]:
    """Both calls for the T queries up to slot `seen` → output [B, T, Hq, D] and their columns' source."""
    batch, q_heads, tokens, width = query.shape
    heads = key.shape[1]
    rows, group = batch * heads, q_heads // heads
    q = query.view(batch, heads, group, tokens, width).transpose(2, 3).reshape(rows, tokens, group, width)
    keys, values = (tensor.view(rows, -1, width) for tensor in (key, layer.values))
    start = layer.start
    pending = torch.full((rows,), seen - start, dtype=torch.int32, device=query.device)
    output, lse = kernel(q, keys[:, start:seen], values[:, start:seen], pending, True, scaling)
    if start:
        lengths = layer.lengths.view(rows).int()
        past, past_lse = kernel(q, keys[:, :start], values[:, :start], lengths, False, scaling)
        past_lse = past_lse.masked_fill((lengths == 0).view(rows, 1, 1), -torch.inf)
        output, lse = merge(output, lse, past, past_lse)
    output = output.to(query.dtype).view(batch, heads, tokens, group, width)
    source = ColumnSource(
        query, key, lse.reshape(batch, q_heads, tokens), scaling, layer.lengths, layer.start, seen
    )
    return output.transpose(1, 2).reshape(batch, tokens, q_heads, width), source


def merge(one: Tensor, one_lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Merge outputs [R, T, G, D] over disjoint keys by their log-sum-exps [R, G, T] → the same over all keys.

    In fp32 or better. `one_lse` must be finite; where `other_lse` is −inf, `other` may hold anything.
    """
    lse = torch.logaddexp(one_lse, other_lse)
    weight, rest = ((part - lse).exp().transpose(1, 2).unsqueeze(-1) for part in (one_lse, other_lse))
    return torch.where(rest > 0, one * weight + other * rest, one * weight), lse


def _watch(source: ColumnSource, layer: BoundedLayer, context: "Context", backend: Backend) -> None:
    """Show the policy a multiple of 16 queries; buffer the rest, and attend again once there are enough.

    No slot moves between two evictions, so a buffered query sees exactly the keys it saw at first.
    """
    query = source.query
    if layer.queries is None and query.shape[2] % HOP == 0:
        _show(source, layer, context, backend)
        return
    held = query if layer.queries is None else torch.cat((layer.queries, query), dim=2)
    ready = held.shape[2] // HOP * HOP
    rest = held.shape[2] - ready
    if ready:
        seen = source.seen - rest
        due = held[:, :, :ready].contiguous()
        _show(
            attend(backend.kernel, due, source.key, layer, source.scaling, seen)[1],
            layer,
            context,
            backend,
        )
    layer.queries = held[:, :, ready:].clone() if rest else None


def _show(source: ColumnSource, layer: BoundedLayer, context: "Context", backend: Backend) -> None:
    """One fused call if the policy supports it, else columns block by block."""
    first = context.first_observed(layer, source.queries, before=layer.used - source.seen)
    if first == source.queries:
        return
    if first:
        query, lse = source.query[:, :, first:].contiguous(), source.lse[:, :, first:].contiguous()
        source = replace(source, query=query, lse=lse)
    fused = getattr(context.policy, "observe_qk", None)
    if fused is not None:
        fused(layer, source, backend.fold)
        return
    for columns in source.blocks():
        context.policy.observe(layer, columns)
