"""Heavy hitters: the tokens with the largest attention so far, beside a recent window (arXiv 2306.14048)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from namm_runtime.cache import BoundedLayer
from namm_runtime.policies.base import Policy


class H2O(Policy):
    """Args: recent: newest tokens that always stay; the paper gives them half of the budget."""

    name = "h2o"
    observes = True
    state: Mapping[str, int] = {"mass": 1}

    def __init__(self, recent: int) -> None:
        self.recent = recent

    @property
    def settings(self) -> dict[str, Any]:
        return {"recent": self.recent}

    def observe(self, layer: BoundedLayer, columns: Tensor) -> None:
        layer.state["mass"][:, :, : columns.shape[-1], 0] += columns.sum(dim=2)

    def scores(self, layer: BoundedLayer) -> Tensor:
        mass = layer.state["mass"][:, :, : layer.used, 0]
        recent = layer.positions[:, :, : layer.used] >= layer.clock - self.recent
        return mass.masked_fill(recent, torch.inf)
