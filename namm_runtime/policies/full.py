"""No eviction: the full cache of an ordinary transformer."""

from torch import Tensor

from namm_runtime.cache import BoundedCache, BoundedLayer
from namm_runtime.policies.base import Policy


class Full(Policy):
    name = "full"
    evicts = False

    def scores(self, layer: BoundedLayer) -> Tensor:
        raise RuntimeError("the full cache has no scores")

    def evict(self, cache: BoundedCache) -> None:
        """Evicts nothing."""
