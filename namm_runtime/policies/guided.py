"""What a guided reading keeps: what the prompts will need, and the policy's own choice.

A prompt attends to the words it recognises, and its answer usually follows them. So a slot's rating by a
prompt is the largest attention in a window that reaches further back than ahead. Each prompt's attention is
first divided by its sum over the document, and the prompts' ratings are merged by their maximum, so that
neither attention sinks nor many or vague prompts dilute a specific one. SnapKV (arXiv 2404.14469) pools over
a symmetric window of 7 and takes means.
"""

import torch
from torch import Tensor
from torch.nn import functional

from namm_runtime.cache import BoundedLayer

BACK, AHEAD = 12, 2  # slots before and after a slot whose attention counts for it
SINKS = 4  # the first tokens of a document are always kept, and their attention does not count
RECENT = 32  # so are the newest ones
OWN_SHARE = 0.25  # of the slots, chosen by the policy itself


def document_attention(layer: BoundedLayer) -> Tensor:
    """Each prompt's attention to each slot of the document → [B, Hkv, used, P] fp32; 0 for the first tokens.

    Only comparable within a prompt.
    """
    if layer.probe is None:
        raise RuntimeError("no prompt has attended to the cache")
    ignored = layer.positions[:, :, : layer.used] < SINKS
    if layer.ragged:
        ignored |= layer.unused()
    return layer.probe.attention[:, :, : layer.used].float().masked_fill_(ignored.unsqueeze(-1), 0)


def in_all(attention: Tensor) -> Tensor:
    """[B, Hkv, P] each prompt's attention to the document, not 0, from `document_attention`."""
    return attention.sum(2).clamp(min=torch.finfo(torch.float32).tiny)


def ratings(attention: Tensor) -> Tensor:
    """The largest rating of each slot by any prompt → [B, Hkv, used], from `document_attention`."""
    attention = attention / in_all(attention).unsqueeze(2)
    strongest = functional.pad(attention.amax(-1), (BACK, AHEAD))
    return functional.max_pool1d(strongest, BACK + 1 + AHEAD, stride=1)


def merge(layer: BoundedLayer, scores: Tensor, attention: Tensor, own_share: float) -> Tensor:
    """Merge a policy's scores [B, Hkv, used] with the prompts' ratings → scores of the same shape.

    A head's best slots by the merged scores are, as far as they differ, the best ones by either in the
    proportion of their shares.
    """
    positions = layer.positions[:, :, : layer.used]
    always = (positions < SINKS) | (positions >= layer.clock - RECENT)
    merged = -_ranks(layer, ratings(attention)) / (1 - own_share)
    if own_share:
        merged = torch.maximum(merged, -_ranks(layer, scores) / own_share)
    return merged.masked_fill(always, torch.inf)


def _ranks(layer: BoundedLayer, scores: Tensor) -> Tensor:
    """[B, Hkv, used] fp32: 0 for the best slot of a head, and so on; among equals the newest is better."""
    if layer.ragged:
        scores = scores.masked_fill(layer.unused(), -torch.inf)
    order = scores.flip(-1).argsort(dim=-1, descending=True, stable=True)
    index = torch.arange(layer.used, dtype=torch.float32, device=scores.device).expand_as(scores)
    return torch.empty_like(index).scatter_(-1, order, index).flip(-1)
