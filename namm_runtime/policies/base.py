"""The contract of an eviction policy."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from namm_runtime.cache import BoundedCache, BoundedLayer


class Policy(ABC):
    """Decides, per layer and head, which tokens stay.

    A policy holds no memory of a document: what it needs between evictions are floats a slot, declared in
    `state` and kept by the cache layer, which moves them with the slots.

    A policy that observes gets columns from `observe`. One that can do without them may also have
    `observe_qk(layer, source, fold)`, which attention in two passes calls instead
    (`namm_runtime.attention.two_pass`).
    """

    name: str
    observes: bool = False  # whether it wants attention columns
    evicts: ClassVar[bool] = True
    state: Mapping[str, int] = {}
    threshold: float | None = None  # a score below it is dropped even where there is room
    mode: str = "budget"
    watch_scratch = 0  # bytes of the largest temporaries of `observe` so far
    score_scratch = 0  # and of `scores`

    @property
    def settings(self) -> dict[str, Any]:
        """What else decides which tokens stay, as JSON, for the hash in a snapshot."""
        return {}

    def room(self, budget: int | None, interval: int, by_slot: bool) -> int | None:
        """Slots a head keeps at an eviction in this regime, None for no limit.

        Raises:
            Refusal: `regime_mismatch` where the policy's mode leaves no such choice.
        """
        return budget if self.evicts else None

    def observe(self, layer: BoundedLayer, columns: Tensor) -> None:
        """Take in columns [B, Hkv, n, N]: attention of n (a multiple of 16) queries to the oldest N slots."""
        raise NotImplementedError(f"{self.name} does not observe")

    @abstractmethod
    def scores(self, layer: BoundedLayer) -> Tensor:
        """Score every slot in use → [B, Hkv, used]; higher is kept. Unused slots may hold anything."""

    def evict(self, cache: BoundedCache) -> None:
        """Keep the best tokens of every layer. Called when `pending` has reached the interval.

        The newest token always stays, as in the reference implementation.
        """
        for layer in cache.layers:
            scores = self.scores(layer).float()
            scores[..., -1] = torch.inf
            layer.compact(scores, self.threshold, rectangular=self.mode == "parity")
