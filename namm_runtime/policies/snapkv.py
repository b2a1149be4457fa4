"""Keeps the tokens that the last queries before an eviction attend to (SnapKV, arXiv 2404.14469).

The paper observes the end of the prompt, which holds the question. Here the document is read before any
question is known, so the window is simply the last queries before each eviction.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from namm_runtime.cache import BoundedCache, BoundedLayer
from namm_runtime.policies.base import Policy


class SnapKV(Policy):
    """Sums the window's attention to each token, and max-pools it over neighbouring tokens.

    Args:
        window: number of queries before an eviction whose attention counts, a multiple of 16. Their own
            tokens are always kept, within the budget.
        kernel: width of the max-pooling over slots, odd; None disables pooling.

    Raises:
        ValueError: for any other window or kernel.
    """

    name = "snapkv"
    observes = True
    state: Mapping[str, int] = {"mass": 1}

    def __init__(self, window: int = 32, kernel: int | None = 7) -> None:
        if window < 16 or window % 16 or (kernel is not None and (kernel < 1 or kernel % 2 == 0)):
            raise ValueError(f"window must be a multiple of 16 and kernel odd, not {window} and {kernel}")
        self.window, self.kernel = window, kernel

    @property
    def settings(self) -> dict[str, Any]:
        return {"window": self.window, "kernel": self.kernel}

    def observe(self, layer: BoundedLayer, columns: Tensor) -> None:
        queries, slots = columns.shape[2:]
        first = slots - queries  # slot of the oldest query
        opens = layer.start + max(0, layer.interval - self.window)
        if slots <= opens:
            return
        mass = layer.state["mass"][:, :, :slots, 0]
        mass += columns[:, :, max(0, opens - first) :].sum(dim=2)

    def scores(self, layer: BoundedLayer) -> Tensor:
        mass = layer.state["mass"][:, :, : layer.used, 0]
        recent = layer.positions[:, :, : layer.used] >= layer.clock - self.window
        if self.kernel is not None:
            # The window's own tokens and unused slots do not raise their neighbours' scores.
            alone = recent | layer.unused() if layer.ragged else recent
            mass = functional.max_pool1d(
                mass.masked_fill(alone, 0), self.kernel, stride=1, padding=self.kernel // 2
            )
        return mass.masked_fill(recent, torch.inf)

    def evict(self, cache: BoundedCache) -> None:
        super().evict(cache)
        for layer in cache.layers:
            layer.state["mass"].zero_()  # the next window starts from zero
