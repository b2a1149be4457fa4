"""Guided reading: before each eviction, the prompts attend to the cache without being stored in it.

The prompts' tokens pass through the model behind the document's newest tokens. In every layer each prompt
attends to all slots and to its own earlier tokens, as if it were asked at this point of the document, and the
policy sees how much attention each slot received. Nothing is added to the cache.

A prompt's queries change little while a document is read. So once every prompt has passed through the model,
`turn_tokens` bounds how many tokens do so again at an eviction: the prompts take turns, and those not on turn
attend with their latest queries, which costs no pass through the model.
"""

import torch
from torch import Tensor

from namm_runtime.attention.context import Context
from namm_runtime.attention.guide import Guide
from namm_runtime.cache import BoundedLayer
from namm_runtime.probe import Probe


def attend_prompts(query: Tensor, layer: BoundedLayer, context: Context, scaling: float) -> Tensor:
    """Attend the queries [B, Hq, F, D] of the prompts on turn to all slots and to themselves → the same.

    Keeps all prompts' attention to the slots in `layer.probe`. The layer's guests are the keys and values of
    the same F tokens.
    """
    guide, (begin, end) = context.guide, context.turn
    key, value = layer.guests
    assert guide is not None
    probe = _updated(layer, guide, query, key, begin)
    batch, heads, _, width = key.shape
    slots, group = layer.used, query.shape[1] // heads
    held = context.rotated(layer)
    next_one = (
        layer.lengths + layer.pending if context.by_slot else torch.full_like(layer.lengths, layer.clock)
    )
    places = next_one.unsqueeze(-1) + guide.offsets.clamp(min=0).unsqueeze(1)  # [B, Hkv, Q]
    rotate = context.rotation.rotate
    queries = rotate(probe.queries, places.repeat_interleave(group, dim=1)) * scaling
    queries, keys = queries.view(batch, heads, group, -1, width), rotate(probe.keys, places)
    output = torch.empty_like(query).view(batch, heads, group, -1, width)
    probe.attention = torch.empty(batch, heads, slots, len(guide.spans), device=query.device)
    unused = layer.unused()[:, :, None, None] if layer.ragged else None
    for block in guide.blocks(batch * heads * group * slots * 4):
        low, high = guide.spans[block.start][0], guide.spans[block.stop - 1][1]
        scores = queries.new_empty(batch, heads, group, high - low, slots + high - low)
        mine = queries[:, :, :, low:high].flatten(2, 3)
        scores[..., :slots] = (mine @ held.transpose(-1, -2)).view_as(scores[..., :slots])
        own = (mine @ keys[:, :, low:high].transpose(-1, -2)).view_as(scores[..., slots:])
        scores[..., slots:] = own.masked_fill_(~guide.visible(block)[:, None, None], -torch.inf)
        if unused is not None:
            scores[..., :slots].masked_fill_(unused, -torch.inf)
        weights = scores.softmax(-1, dtype=torch.float32)
        context.scratch_bytes = max(
            context.scratch_bytes, scores.nbytes + weights.nbytes + held.nbytes + probe.attention.nbytes
        )
        # Own tokens of other prompts have no weight, so only those on turn need values.
        first, last = max(low, begin), min(high, end)
        if first < last:
            part = weights[:, :, :, first - low : last - low].to(value.dtype).flatten(2, 3)
            answers = part[..., :slots] @ layer.values[:, :, :slots]
            answers += (
                part[..., slots + first - low : slots + last - low]
                @ value[:, :, first - begin : last - begin]
            )
            output[:, :, :, first - begin : last - begin] = answers.view(batch, heads, group, -1, width)
        by_prompt = guide.averages(block)[:, None, None] @ weights[..., :slots]  # [B, Hkv, G, P, N]
        probe.attention[..., block.start : block.stop] = by_prompt.amax(2).transpose(-1, -2)
    return output.view_as(query)


def _updated(layer: BoundedLayer, guide: Guide, query: Tensor, key: Tensor, begin: int) -> Probe:
    """The layer's probe with the queries and keys of the prompts on turn, from token `begin` on."""
    if layer.probe is None:
        (batch, q_heads, _, width), heads, tokens = query.shape, key.shape[1], guide.whole[1]
        layer.probe = Probe(
            query.new_zeros(batch, q_heads, tokens, width),
            key.new_zeros(batch, heads, tokens, width),
            torch.ones(batch, heads, len(guide.spans), device=query.device),
        )
    layer.probe.queries[:, :, begin : begin + query.shape[2]] = query
    layer.probe.keys[:, :, begin : begin + query.shape[2]] = key
    return layer.probe
