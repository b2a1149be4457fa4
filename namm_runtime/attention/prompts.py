"""Guided reading: before each eviction, the prompts attend to the cache without being stored in it.

The prompts' tokens pass through the model behind the document's newest tokens. In every layer each prompt
attends to all slots and to its own earlier tokens, as if it were asked at this point of the document, and the
policy sees how much attention each slot received. Nothing is added to the cache.

A prompt's attention changes little while a document is read. So once every prompt has passed through the
model, `turn_tokens` bounds how many tokens do so again at an eviction: the prompts take turns. Those not on
turn keep the attention they paid to older slots, and attend to the new ones with the queries and the
normaliser of their latest turn.
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
    batch, heads, _, width = key.shape
    if layer.probe is None:  # then all prompts are on turn
        layer.probe = Probe.before_a_pass(query, heads, len(guide.spans), layer.capacity)
    probe, slots, group = layer.probe, layer.used, query.shape[1] // heads
    probe.queries[:, :, begin:end] = query
    held = context.rotated(layer)
    places = _places(layer, guide, context.by_slot)
    rotate = context.rotation.rotate
    queries = rotate(probe.queries, places.repeat_interleave(group, dim=1)) * scaling
    queries, keys = queries.view(batch, heads, group, -1, width), rotate(key, places[..., begin:end])
    unused = layer.unused()[:, :, None, None] if layer.ragged else None
    a_slot, output = batch * heads * group * 4, torch.empty_like(query)
    for block in guide.blocks((begin, end), a_slot * slots):
        low, high = guide.tokens(block)
        mine = queries[:, :, :, low:high].flatten(2, 3)  # [B, Hkv, G·q, D]
        guests = slice(low - begin, high - begin)
        seen = mine @ held.transpose(-1, -2)
        scores = seen.new_empty(batch, heads, group, high - low, slots + high - low, dtype=torch.float32)
        scores[..., :slots] = seen.view_as(scores[..., :slots])
        own = (mine @ keys[:, :, guests].transpose(-1, -2)).view_as(scores[..., slots:])
        scores[..., slots:] = own.masked_fill(~guide.visible(block)[:, None, None], -torch.inf)
        if unused is not None:
            scores[..., :slots].masked_fill_(unused, -torch.inf)
        weights = torch.softmax(scores, dim=-1, out=scores)
        itself = weights[..., slots:].diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(torch.float32).tiny)
        probe.normaliser[:, :, low:high] = (own.diagonal(dim1=-2, dim2=-1) - itself.log()).flatten(1, 2)
        probe.note(guide.averages(block), weights[..., :slots], 0, block)
        to_slots, to_guests = (
            part.to(value.dtype).flatten(2, 3) for part in (weights[..., :slots], weights[..., slots:])
        )
        answers = to_slots @ layer.values[:, :, :slots] + to_guests @ value[:, :, guests]
        output[:, :, guests] = answers.view_as(output[:, :, guests])
        _count(context, held, seen, scores)
    for span in ((0, begin), (end, guide.whole[1])):
        for block in guide.blocks(span, a_slot * layer.pending):
            low, high = guide.tokens(block)
            mine = queries[:, :, :, low:high].flatten(2, 3)
            seen = mine @ held[:, :, layer.start :].transpose(-1, -2)
            scores = seen.view(batch, heads * group, high - low, -1).float()
            # A new slot may get more attention than all others had, but no more than there is.
            weights = scores.sub_(probe.normaliser[:, :, low:high, None]).clamp_(max=0).exp_()
            weights = weights.view(batch, heads, group, high - low, -1)
            probe.note(guide.averages(block), weights, layer.start, block)
            _count(context, held, seen, scores)
    return output


def _places(layer: BoundedLayer, guide: Guide, by_slot: bool) -> Tensor:
    """[B, Hkv, Q] the rotary positions of all prompts' tokens, behind the newest slot's."""
    newest = layer.lengths + layer.pending if by_slot else torch.full_like(layer.lengths, layer.clock)
    return newest.unsqueeze(-1) + guide.offsets.clamp(min=0).unsqueeze(1)


def _count(context: Context, *temporaries: Tensor) -> None:
    context.scratch_bytes = max(context.scratch_bytes, sum(tensor.nbytes for tensor in temporaries))
