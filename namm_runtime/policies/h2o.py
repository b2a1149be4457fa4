"""Heavy hitters: keeps the tokens with the most attention so far, and a recent window (arXiv 2306.14048)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from namm_runtime.cache import BoundedLayer
from namm_runtime.policies.base import Policy


class H2O(Policy):
    """Args: recent: number of newest tokens that are always kept; half of the budget in the paper."""

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
