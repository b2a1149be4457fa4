"""Keeps what the prompts attend to and nothing else: the plain rule of a guided reading, for comparison."""

from torch import Tensor

from namm_runtime.cache import BoundedLayer
from namm_runtime.policies.base import Policy


class Prompts(Policy):
    name = "prompts"
    needs_prompts = True
    own_share = 0.0

    def scores(self, layer: BoundedLayer) -> Tensor:
        return layer.positions[:, :, : layer.used].float()  # no prompt's turn yet: the newest
