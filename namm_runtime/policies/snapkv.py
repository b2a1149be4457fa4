"""Tokens that the last queries before an eviction looked at (SnapKV, arXiv 2404.14469).

The paper watches the end of a prompt, where its question stands. Here the document is read before any
question is known, so the window is the last queries before each eviction, whatever they say.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from namm_runtime.cache import BoundedCache, BoundedLayer
from namm_runtime.policies.base import Policy


class SnapKV(Policy):
    """Sums the window's attention to each token; a token's neighbours profit from it.

    Args:
        window: queries before an eviction whose attention counts, a multiple of 16. They always stay
            themselves, as far as the budget goes.
        kernel: width of the max-pooling over neighbouring slots, odd; None pools nothing.

    Raises:
        ValueError: another window or kernel.
    """

    name = "snapkv"
    observes = True
    state: Mapping[str, int] = {"mass": 1}

    def __init__(self, window: int = 32, kernel: int | None = 7) -> None:
        if window < 16 or window % 16 or (kernel is not None and (kernel < 1 or kernel % 2 == 0)):
            raise ValueError(f"no window of {window} queries (a multiple of 16) or kernel of {kernel} (odd)")
        self.window, self.kernel = window, kernel

    @property
    def settings(self) -> dict[str, Any]:
        return {"window": self.window, "kernel": self.kernel}

    def observe(self, layer: BoundedLayer, columns: Tensor) -> None:
        queries, slots = columns.shape[2:]
        first = slots - queries  # the slot of the oldest of these queries
        opens = layer.start + max(0, layer.interval - self.window)
        if slots <= opens:
            return
        mass = layer.state["mass"][:, :, :slots, 0]
        mass += columns[:, :, max(0, opens - first) :].sum(dim=2)

    def scores(self, layer: BoundedLayer) -> Tensor:
        mass = layer.state["mass"][:, :, : layer.used, 0]
        recent = layer.positions[:, :, : layer.used] >= layer.clock - self.window
        if self.kernel is not None:
            # Neither the window's own tokens nor unused slots lift their neighbours.
            alone = recent | layer.unused() if layer.ragged else recent
            mass = functional.max_pool1d(
                mass.masked_fill(alone, 0), self.kernel, stride=1, padding=self.kernel // 2
            )
        return mass.masked_fill(recent, torch.inf)

    def evict(self, cache: BoundedCache) -> None:
        super().evict(cache)
        for layer in cache.layers:
            layer.state["mass"].zero_()  # what this window saw has been used
