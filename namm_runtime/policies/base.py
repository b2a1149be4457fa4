"""The contract of an eviction policy."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from namm_runtime.cache import BoundedCache, BoundedLayer
from namm_runtime.checkpoint import Scorer
from namm_runtime.errors import Refusal

# The zeroed one is a control: the same scorer, blind to attention.
LEARNED = {
    "namm-key": "namm-key",
    "namm": "namm",
    "namm-layer": "namm-layer",
    "namm-zero": "namm-zero",
    "bam-key": "bam-key",
    "namm-key-zeroed": "namm-key",
}
# What requests of earlier versions say.
FORMER = {"window": "streaming"}
# `budget` keeps what fits into a given number of slots; `parity` is the reference implementation's own rule.
MODES = ("budget", "parity")


class Policy(ABC):
    """Decides, per layer and head, which tokens stay.

    A policy holds no memory of a document: what it needs between evictions are floats a slot, declared in
    `state` and kept by the cache layer, which moves them with the slots.

    A policy that observes gets columns from `observe`. One that can do without them may also have
    `observe_qk(layer, attended, fold)`, which attention in two passes calls instead (`namm_runtime.twopass`).
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


def names() -> list[str]:
    """Every policy a request may name."""
    return [*LEARNED, "keydiff", "h2o", "snapkv", "l2", "streaming", "full"]


def canonical(name: str) -> str:
    """The policy's name today."""
    return FORMER.get(name, name)


def scorer_of(name: str) -> str | None:
    """The bundled scorer a learned policy uses, None for a heuristic."""
    return LEARNED.get(name)


def make(name: str, budget: int | None, scorer: Scorer | None = None, mode: str = "budget") -> Policy:
    """Build a policy.

    Raises:
        Refusal: `unknown_policy`; `scorer_required` for the learned ones; `regime_mismatch` for a mode that
            the policy or its scorer does not have.
    """
    from namm_runtime.policies.full import Full
    from namm_runtime.policies.h2o import H2O
    from namm_runtime.policies.keydiff import KeyDiff
    from namm_runtime.policies.l2 import L2
    from namm_runtime.policies.namm import Namm
    from namm_runtime.policies.snapkv import SnapKV
    from namm_runtime.policies.streaming import Streaming

    name = canonical(name)
    if mode not in MODES or (mode == "parity" and name not in LEARNED):
        raise Refusal("regime_mismatch", f"the policy '{name}' has no mode '{mode}'; take 'budget'")
    match name:
        case "full":
            return Full()
        case "streaming":
            return Streaming()
        case "h2o":
            return H2O(recent=(budget or 0) // 2)
        case "keydiff":
            return KeyDiff()
        case "snapkv":
            return SnapKV()
        case "l2":
            return L2()
        case _ if name in LEARNED:
            if scorer is None:
                raise Refusal("scorer_required", f"the policy '{name}' needs a scorer checkpoint")
            if name == "namm-key-zeroed":
                scorer = replace(scorer, config=replace(scorer.config, spectrum_zeroed=True))
            policy = Namm(scorer, mode=mode)
            policy.name = name
            return policy
    raise Refusal("unknown_policy", f"there is no policy '{name}'; choose one of {', '.join(names())}")
