"""Attention over a bounded cache, and the attention columns that policies observe.

Registered with transformers as `bounded`. No mask function is registered under that name, so transformers
builds no queries × cache mask; the only mask here is the causal square over the tokens of the current block.

This module implements the one-pass path for CPUs; on a GPU the same call uses
`namm_runtime.attention.two_pass`.

Scratch: a block of queries attends to all keys at once and is as long as `TILE_BYTES` allows (a multiple of
16, at least 16). Documents batched in one tensor make the blocks shorter, and are processed in several parts
if the tile has no room for all of them. So scratch depends on the budget, but not on the document's length,
the number of layers or the number of documents.
"""

import time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from namm_runtime.attention.context import Context
from namm_runtime.attention.prompts import attend_prompts
from namm_runtime.attention.spectrogram import HOP
from namm_runtime.attention.two_pass import two_pass_attention
from namm_runtime.attention.workspace import take
from namm_runtime.cache import BoundedLayer

TILE_BYTES = 8 << 20  # scores of one block; smaller ones add overhead, larger ones fall out of the CPU cache


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
    """Attend query [B, Hq, T, D] over the layer's slots → [B, T, Hq, D], and show the policy the columns.

    `key` and `value` [B, Hkv, N, D] are views of the cache's slots, unrotated; the newest T were just
    appended. The newest queries may be those of prompts that guide the reading, whose keys are not stored.
    """
    layer = context.cache.layers[int(module.layer_idx)]  # type: ignore[arg-type]
    if not layer.guest_tokens:
        return _attend_document(query, key, value, layer, context, scaling), None
    stored = query.shape[2] - layer.guest_tokens
    output = _attend_document(query[:, :, :stored], key, value, layer, context, scaling)
    answers = attend_prompts(query[:, :, stored:], layer, context, scaling)
    return torch.cat((output, answers.transpose(1, 2)), dim=1), None


AttentionInterface.register("bounded", bounded_attention)


def _attend_document(
    query: Tensor, key: Tensor, value: Tensor, layer: BoundedLayer, context: Context, scaling: float
) -> Tensor:
    """The same for queries of stored tokens only."""
    if context.backend is not None:
        query, key = _rotate(query, layer.keys, layer, context)
        return two_pass_attention(query, key, layer, context, context.backend, scaling)
    # One document's rotated keys, and the scores of the shortest block.
    a_row = key[:1].nbytes + query.shape[1] * HOP * key.shape[2] * 4
    output, held = torch.empty_like(query), []
    for rows, part in layer.parts(a_row, TILE_BYTES):
        _one_pass(query[rows], key[rows], value[rows], part, context, scaling, output[rows])
        held += [] if part.queries is None else [part.queries]
    layer.queries = torch.cat(held) if held else None
    return output.transpose(1, 2)


def _one_pass(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layer: BoundedLayer,
    context: Context,
    scaling: float,
    output: Tensor,
) -> None:
    """Fill output [B, Hq, T, D] for some documents; the policy observes the columns now or later."""
    query, key = _rotate(query, key, layer, context)
    tokens = query.shape[2]
    aligned = tokens % HOP == 0 and layer.queries is None
    now = context.policy.observes and aligned
    watched_from = context.first_observed(layer, tokens) if now else tokens
    _attend(query, key, value, layer, context, scaling, output, watched_from)
    if context.policy.observes and not aligned:
        _watch_later(query, key, value, layer, context, scaling)


def _rotate(query: Tensor, key: Tensor, layer: BoundedLayer, context: Context) -> tuple[Tensor, Tensor]:
    """Rotate by slot or by position in the text. The query heads of a group use their KV head's slots.

    Args:
        query: [B, Hq, T, D] of the newest T tokens.
        key: [B, Hkv, N, D] of the first N slots, up to and including the newest token's.
    """
    used, slots = layer.used, key.shape[2]
    first = used - query.shape[2]
    if not context.by_slot:
        where = layer.positions[:, :, :slots]
        newest = where[:, :1, first:used]  # pending tokens have the same position in every head
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
    watched_from: int,
) -> None:
    """Softmax attention of the newest T queries, block by block; the policy sees each block's columns.

    Args:
        query: [B, Hq, T, D] rotated, aligned with the last T slots of key [B, Hkv, N, D].
        output: [B, Hq, T, D] to fill, or None where only the columns are wanted.
        watched_from: the first query that the policy sees, a multiple of 16 or T for none.
    """
    batch, q_heads, tokens, width = query.shape
    kv_heads, slots = key.shape[1], key.shape[2]
    group, rows = q_heads // kv_heads, batch * kv_heads
    unused = layer.unused()[:, :, None, None, :] if layer.ragged else None
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    block = block_length(batch * q_heads * slots * 4, tokens)
    half = query.dtype != torch.float32  # the softmax is computed in fp32 anyway, in place if possible
    for begin in range(0, tokens, block):
        end = min(begin + block, tokens)
        length, visible = end - begin, slots - tokens + end  # later keys are invisible to the whole block
        q = query[:, :, begin:end].reshape(rows, group * length, width) * scaling
        scores = take("scores", (rows, group * length, visible), q)
        torch.bmm(q, keys[:, :visible].transpose(1, 2), out=scores)
        by_head = scores.view(batch, kv_heads, group, length, visible)
        if length > 1:
            square = torch.ones(length, length, dtype=torch.bool, device=q.device).triu_(1)
            by_head[..., visible - length :].masked_fill_(square, -torch.inf)
        if unused is not None:
            by_head.masked_fill_(unused[..., :visible], -torch.inf)
        weights = take("weights", by_head.shape, q, torch.float32).copy_(by_head) if half else by_head
        torch.softmax(weights, dim=-1, out=weights)
        scratch = scores.nbytes + weights.nbytes * half
        if output is not None:
            p = scores.copy_(weights.view_as(scores)) if half else scores
            output[:, :, begin:end] = torch.bmm(p, values[:, :visible]).view(batch, q_heads, length, width)
        if watched_from < end:
            begun = time.perf_counter()
            seen = weights[:, :, :, max(0, watched_from - begin) :]
            # Queries outermost, which the spectrogram reads without a copy.
            columns = take("columns", (seen.shape[3], batch, kv_heads, visible), weights)
            scratch += columns.nbytes
            columns = columns.permute(1, 2, 0, 3)
            _mean_of_group(seen, columns)
            context.policy.observe(layer, columns)
            context.watch_seconds += time.perf_counter() - begun
        context.scratch_bytes = max(context.scratch_bytes, scratch + key.nbytes + query.nbytes)


def _watch_later(
    query: Tensor, key: Tensor, value: Tensor, layer: BoundedLayer, context: Context, scaling: float
) -> None:
    """Buffer queries until there are 16, then recompute their columns from queries and keys.

    No slot moves between two evictions, so a buffered query sees exactly the keys it saw at first.
    """
    held = query if layer.queries is None else torch.cat((layer.queries, query), dim=2)
    ready = held.shape[2] // HOP * HOP
    rest = held.shape[2] - ready
    if ready:
        seen = key.shape[2] - rest  # the slots up to the newest ready query
        first = context.first_observed(layer, ready, before=rest)
        if first < ready:
            _attend(held[:, :, :ready], key[:, :, :seen], value, layer, context, scaling, None, first)
    layer.queries = held[:, :, ready:].clone() if rest else None


def _mean_of_group(weights: Tensor, out: Tensor) -> None:
    """Mean of weights [B, Hkv, G, T, N] over G into out [B, Hkv, T, N].

    Adds whole tensors, which reads memory in order: twice as fast as torch.mean over such a short axis.
    """
    group = weights.shape[2]
    if group == 1:
        out.copy_(weights[:, :, 0])
        return
    torch.add(weights[:, :, 0], weights[:, :, 1], out=out)
    for head in range(2, group):
        out.add_(weights[:, :, head])
    out.div_(group)


def block_length(bytes_a_query: int, tokens: int) -> int:
    """Queries per block: the largest multiple of 16 that fits into the tile, at least 16, at most all."""
    return min(tokens, max(HOP, TILE_BYTES // bytes_a_query // HOP * HOP))
