"""What the prompts of a guided reading have seen in one layer of the cache."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Probe:
    """The state of P prompts with Q tokens in all, in one layer.

    Attributes:
        queries: [B, Hq, Q, D] of the prompts' latest pass, not rotated.
        keys: [B, Hkv, Q, D] of the same.
        spared: [B, Hkv, P] fp32, share of each prompt's attention that all evictions so far have left.
        attention: [B, Hkv, N, P] fp32, each prompt's attention to each slot: the mean over its tokens, and
            the largest of the head's group. Filled by the pass before an eviction, moved with the slots, and
            dropped after the eviction.
    """

    queries: Tensor
    keys: Tensor
    spared: Tensor
    attention: Tensor | None = None

    def saved(self) -> dict[str, Tensor]:
        """What a snapshot needs, between an eviction and the next pass of the prompts."""
        parts = {"queries": self.queries, "keys": self.keys, "spared": self.spared}
        return {f"probe.{name}": tensor.contiguous() for name, tensor in parts.items()}

    @classmethod
    def of_saved(cls, tensors: Mapping[str, Tensor]) -> "Probe | None":
        """The inverse of `saved`, None if there is nothing of it."""
        if "probe.spared" not in tensors:
            return None
        return cls(*(tensors[f"probe.{name}"] for name in ("queries", "keys", "spared")))

    def clone(self) -> "Probe":
        attention = None if self.attention is None else self.attention.clone()
        return Probe(self.queries.clone(), self.keys.clone(), self.spared.clone(), attention)
