"""The interface of an eviction policy."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from namm_runtime.cache import BoundedCache, BoundedLayer
from namm_runtime.policies import guided


class Policy(ABC):
    """Decides, per layer and head, which tokens to keep.

    A policy stores nothing about a document itself: what it needs between evictions are floats per slot,
    declared in `state` and stored in the cache layer, which moves them along with the slots.

    A policy that observes gets attention columns through `observe`. It may also define
    `observe_qk(layer, source, fold)`, which the two-pass path calls instead of computing columns
    (`namm_runtime.attention.two_pass`).
    """

    name: str
    observes: bool = False  # whether it needs attention columns
    evicts: ClassVar[bool] = True
    state: Mapping[str, int] = {}
    threshold: float | None = None  # tokens scored below it are dropped even if there is room
    mode: str = "budget"
    needs_prompts: ClassVar[bool] = False  # whether it only works in a guided reading
    own_share: ClassVar[float] = guided.OWN_SHARE  # of the slots, in a guided reading
    watch_scratch = 0  # bytes of the largest temporaries of `observe` so far
    score_scratch = 0  # the same for `scores`

    @property
    def settings(self) -> dict[str, Any]:
        """Further parameters of the policy, as JSON, for a snapshot's fingerprint."""
        return {}

    def room(self, budget: int | None, interval: int, by_slot: bool) -> int | None:
        """Slots each head keeps at an eviction in this regime, None for no limit.

        Raises:
            Refusal: `regime_mismatch` if the policy's mode does not allow these settings.
        """
        return budget if self.evicts else None

    def observe(self, layer: BoundedLayer, columns: Tensor) -> None:
        """Process columns [B, Hkv, n, N]: attention of n queries (a multiple of 16) to the oldest N slots."""
        raise NotImplementedError(f"{self.name} does not observe")

    @abstractmethod
    def scores(self, layer: BoundedLayer) -> Tensor:
        """Score every slot → [B, Hkv, used]; higher scores are kept. Unused slots may have any score."""

    def cache_scores(self, cache: BoundedCache) -> list[Tensor]:
        """The scores [B, Hkv, used] of every layer, fp32."""
        return [self.scores(layer).float() for layer in cache.layers]

    def evict(self, cache: BoundedCache) -> None:
        """Keep the best tokens of every layer. Called whenever `pending` reaches the interval.

        The newest token is always kept, as in the reference implementation. In a guided reading the policy
        chooses its own share of the slots and the prompts the others; a threshold has no effect then.
        """
        for layer, scores in zip(cache.layers, self.cache_scores(cache), strict=True):
            probe = layer.probe
            if probe is None:
                scores[..., -1] = torch.inf
                layer.compact(scores, self.threshold, rectangular=self.mode == "parity")
                continue
            attention = guided.document_attention(layer)
            layer.compact(guided.merge(layer, scores, attention, self.own_share))
            left = guided.document_attention(layer)
            probe.spared *= left.sum(2) / guided.in_all(attention)
