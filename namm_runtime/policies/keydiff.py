"""Keeps the keys least similar to the mean key (KeyDiff, arXiv 2504.15364)."""

from torch import Tensor
from torch.nn import functional

from namm_runtime.cache import BoundedLayer
from namm_runtime.policies.base import Policy


def key_similarity(layer: BoundedLayer) -> Tensor:
    """Cosine similarity of every unrotated key to the mean of the head's normalised keys → [B, Hkv, used]."""
    keys = functional.normalize(layer.keys[:, :, : layer.used].float(), dim=-1)
    if layer.ragged:
        keys = keys.masked_fill(layer.unused().unsqueeze(-1), 0)
    anchor = functional.normalize(keys.sum(dim=2), dim=-1)  # the norm of the mean does not matter
    return (keys @ anchor.unsqueeze(-1)).squeeze(-1)


class KeyDiff(Policy):
    name = "keydiff"

    def scores(self, layer: BoundedLayer) -> Tensor:
        return -key_similarity(layer)
