"""Attention over a bounded cache, and the attention columns that policies watch.

Registered with transformers as `bounded`. No mask function is registered under that name, so transformers
builds no mask of queries × cache; the only mask here is the square over the tokens of the running block.

This module is the CPU's way, one pass; on a GPU the same call goes through `namm_runtime.twopass`.

Scratch: a block of queries meets all keys at once, and is as long as `TILE_BYTES` allows (a multiple of 16,
at least 16). It depends on the budget, never on the document's length, the layers or the number of jobs.
"""

import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from namm_runtime.backends import Backend
from namm_runtime.cache import BoundedCache, BoundedLayer
from namm_runtime.rope import Rotation
from namm_runtime.twopass import two_pass_attention

TILE_BYTES = 4 << 20  # scores of one block; larger tiles fall out of the CPU's cache
HOP = 16  # policies see queries in multiples of this


class Observer(Protocol):
    """What attention needs of a policy."""

    @property
    def observes(self) -> bool: ...

    def observe(self, layer: BoundedLayer, columns: Tensor) -> None: ...


@dataclass
class Context:
    """What one forward pass carries to every layer's attention."""

    cache: BoundedCache
    policy: Observer
    rotation: Rotation
    by_slot: bool  # rotate by slot (cache-relative) instead of by place in the text
    backend: Backend | None = None  # of two passes; None is the one pass below
    scratch_bytes: int = 0  # largest block of scores and probabilities so far
    watch_seconds: float = 0.0  # spent by the policy on columns

    @property
    def backend_name(self) -> str:
        """Which attention runs, for results to say."""
        return self.backend.name if self.backend else "one pass (torch)"


def bounded_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    context: Context,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend query [B, Hq, T, D] over the layer's slots → [B, T, Hq, D], and let the policy watch.

    `key` and `value` [B, Hkv, N, D] are the cache's own slots, unrotated, the newest T of them just appended.
    """
    layer = context.cache.layers[int(module.layer_idx)]  # type: ignore[arg-type]
    if context.backend is not None:
        query, key = _rotate(query, layer.keys, layer, context)
        return two_pass_attention(query, key, layer, context, context.backend, scaling), None
    query, key = _rotate(query, key, layer, context)
    aligned = query.shape[2] % HOP == 0 and layer.queries is None
    watch = context.policy.observes
    output = torch.empty_like(query)
    _attend(query, key, value, layer, context, scaling, output, watch and aligned)
    if watch and not aligned:
        _watch_later(query, key, value, layer, context, scaling)
    return output.transpose(1, 2), None


AttentionInterface.register("bounded", bounded_attention)


def _rotate(query: Tensor, key: Tensor, layer: BoundedLayer, context: Context) -> tuple[Tensor, Tensor]:
    """Rotate by slot or by place in the text. Slots of one KV head stand for its group of query heads.

    Args:
        query: [B, Hq, T, D] of the newest T tokens.
        key: [B, Hkv, N, D] of the first N slots, the newest token's among them.
    """
    used, slots = layer.used, key.shape[2]
    first = used - query.shape[2]
    if not context.by_slot:
        where = layer.positions[:, :, :slots]
        newest = where[:, :1, first:used]  # pending tokens have the same place in every head
        return context.rotation.rotate(query, newest), context.rotation.rotate(key, where)
    if not layer.ragged:
        rotate = context.rotation.rotate_range
        return rotate(query, first), rotate(key, 0)
    ranks = torch.arange(slots, device=key.device).expand(*key.shape[:2], slots)
    gap = (layer.start - layer.lengths).unsqueeze(-1)
    ranks = torch.where(ranks >= layer.start, ranks - gap, ranks)
    group = query.shape[1] // key.shape[1]
    newest = ranks[..., first:used].repeat_interleave(group, dim=1)
    return context.rotation.rotate(query, newest), context.rotation.rotate(key, ranks)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layer: BoundedLayer,
    context: Context,
    scaling: float,
    output: Tensor | None,
    watch: bool,
) -> None:
    """Softmax attention of the newest T queries, block by block; the policy sees each block's columns.

    Args:
        query: [B, Hq, T, D] rotated, aligned with the last T slots of key [B, Hkv, N, D].
        output: [B, Hq, T, D] to fill, or None where only the columns are wanted.
    """
    batch, q_heads, tokens, width = query.shape
    kv_heads, slots = key.shape[1], key.shape[2]
    group = q_heads // kv_heads
    unused = layer.unused()[:, :, None, None, :] if layer.ragged else None
    block = block_length(batch * q_heads * slots * 4, tokens)
    for begin in range(0, tokens, block):
        end = min(begin + block, tokens)
        visible = slots - tokens + end  # later keys are invisible to the whole block
        q = query[:, :, begin:end].reshape(batch, kv_heads, group * (end - begin), width) * scaling
        scores = q @ key[:, :, :visible].transpose(-1, -2)
        scores = scores.view(batch, kv_heads, group, end - begin, visible)
        if end - begin > 1:
            square = torch.ones(end - begin, end - begin, dtype=torch.bool, device=q.device).triu_(1)
            scores[..., visible - (end - begin) :].masked_fill_(square, -torch.inf)
        if unused is not None:
            scores.masked_fill_(unused[..., :visible], -torch.inf)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
        scratch = 2 * weights.nbytes + weights.nbytes // group + key.nbytes + query.nbytes
        context.scratch_bytes = max(context.scratch_bytes, scratch)
        if output is not None:
            p = weights.view(batch, kv_heads, -1, visible).to(value.dtype)
            out = p @ value[:, :, :visible]
            output[:, :, begin:end] = out.view(batch, q_heads, end - begin, width)
        if watch:
            begun = time.perf_counter()
            context.policy.observe(layer, weights.mean(dim=2))
            context.watch_seconds += time.perf_counter() - begun


def _watch_later(
    query: Tensor, key: Tensor, value: Tensor, layer: BoundedLayer, context: Context, scaling: float
) -> None:
    """Hold queries back until 16 have come, then rebuild their columns from queries and keys.

    Between two evictions no slot moves, so a held query meets exactly the keys it met when it came.
    """
    held = query if layer.queries is None else torch.cat((layer.queries, query), dim=2)
    ready = held.shape[2] // HOP * HOP
    rest = held.shape[2] - ready
    if ready:
        seen = key.shape[2] - rest  # the slots up to the newest ready query
        _attend(held[:, :, :ready], key[:, :, :seen], value, layer, context, scaling, None, True)
    layer.queries = held[:, :, ready:].clone() if rest else None


def block_length(bytes_a_query: int, tokens: int) -> int:
    """Queries in one block: as many multiples of 16 as the tile holds, at least 16, at most all."""
    return min(tokens, max(HOP, TILE_BYTES // bytes_a_query // HOP * HOP))
