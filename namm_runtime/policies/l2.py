"""Keeps the keys with the smallest norm, which attract the most attention (arXiv 2406.11430)."""

import torch
from torch import Tensor

from namm_runtime.cache import BoundedLayer
from namm_runtime.policies.base import Policy


class L2(Policy):
    """Rotation preserves norms, so the cache's unrotated keys can be used. All layers are treated alike."""

    name = "l2"

    def scores(self, layer: BoundedLayer) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(layer.keys[:, :, : layer.used].float(), dim=-1)
        return -norms
