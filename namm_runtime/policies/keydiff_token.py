"""KeyDiff that chooses tokens for the whole model instead of by each head alone.

A fact takes several tokens, and a model needs all of them in most of its layers to repeat it. Heads that
choose for themselves keep different parts of it. So a token's score here is the mean of its KeyDiff ranks in
all heads of all layers, averaged over the tokens around it, and every head keeps the same tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from namm_runtime.cache import BoundedCache, BoundedLayer
from namm_runtime.policies.keydiff import KeyDiff

WINDOW = 9  # tokens whose ranks are averaged; those evicted earlier count as zero
SINKS = 4  # the first tokens of a document are always kept


class KeyDiffToken(KeyDiff):
    name = "keydiff-token"

    def cache_scores(self, cache: BoundedCache) -> list[Tensor]:
        return token_scores(cache.layers, super().cache_scores(cache))


def token_scores(layers: Sequence[BoundedLayer], scores: Sequence[Tensor]) -> list[Tensor]:
    """One score for each token of a document, in every head that holds it.

    Args:
        scores: [B, Hkv, used] of each layer.

    Returns:
        The same shapes, fp32. Ranks are summed as integers, so a document's scores do not depend on others in
        the batch.
    """
    ranks = torch.stack([_ranks(layer, own) for layer, own in zip(layers, scores, strict=True)], dim=1)
    counted = torch.stack([~layer.unused() for layer in layers], dim=1)
    # Slots without a token count nowhere; they stand for the newest token.
    positions = torch.stack([layer.positions[:, :, : layer.used] for layer in layers], dim=1)
    positions = positions.masked_fill(~counted, layers[0].clock - 1)
    means = torch.stack(
        [_token_means(*row) for row in zip(positions, ranks, counted, strict=True)]
    )  # [B, L, Hkv, used]
    means = means.masked_fill(positions < SINKS, torch.inf)
    return list(means.unbind(1))


def _ranks(layer: BoundedLayer, scores: Tensor) -> Tensor:
    """[B, Hkv, used] int64: 0 for the worst slot of a head, and so on."""
    if layer.ragged:
        scores = scores.masked_fill(layer.unused(), -torch.inf)
    order = scores.argsort(dim=-1, stable=True)
    index = torch.arange(layer.used, device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, index)


def _token_means(positions: Tensor, ranks: Tensor, counted: Tensor) -> Tensor:
    """Mean rank of each token and of those around it, for the slots [L, Hkv, used] of one document."""
    tokens, token = torch.unique(positions, return_inverse=True)
    sums = torch.zeros_like(tokens).scatter_add_(0, token.flatten(), (ranks * counted).flatten())
    counts = torch.zeros_like(tokens).scatter_add_(0, token.flatten(), counted.flatten().long())
    # Places of the tokens in a line on which gaps of evicted tokens are no longer than the window.
    steps = tokens.diff().clamp(max=WINDOW)
    places = torch.cat((steps.new_zeros(1), steps.cumsum(0)))
    line = torch.zeros(int(places[-1]) + 1, device=ranks.device)
    line[places] = sums / counts.clamp(min=1)
    around = functional.avg_pool1d(line[None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[0]
    return around[places][token]
