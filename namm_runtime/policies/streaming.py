"""Keeps attention sinks and the most recent tokens (StreamingLLM, arXiv 2309.17453)."""

from typing import Any

import torch
from torch import Tensor

from namm_runtime.cache import BoundedLayer
from namm_runtime.policies.base import Policy


class Streaming(Policy):
    """Args: sinks: number of first tokens of the document that are always kept; four in the paper."""

    name = "streaming"

    def __init__(self, sinks: int = 4) -> None:
        self.sinks = sinks

    @property
    def settings(self) -> dict[str, Any]:
        return {"sinks": self.sinks}

    def scores(self, layer: BoundedLayer) -> Tensor:
        positions = layer.positions[:, :, : layer.used]
        return positions.float().masked_fill(positions < self.sinks, torch.inf)
