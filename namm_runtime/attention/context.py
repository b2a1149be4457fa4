"""What the attention function needs besides the tensors: one context object per forward pass."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from namm_runtime.attention.backends import Backend
from namm_runtime.attention.guide import Guide
from namm_runtime.attention.rope import Rotation
from namm_runtime.cache import BoundedCache, BoundedLayer


class Observer(Protocol):
    """The part of a policy that attention uses."""

    @property
    def observes(self) -> bool: ...

    def observe(self, layer: BoundedLayer, columns: Tensor) -> None: ...


@dataclass
class Context:
    """What one forward pass passes to every layer's attention."""

    cache: BoundedCache
    policy: Observer
    rotation: Rotation
    by_slot: bool  # rotate by slot (cache-relative) instead of by position in the text
    backend: Backend | None = None  # of the two-pass path; None selects the one-pass path
    watch_last: int | None = None  # queries before each eviction that the policy observes; None: all
    guide: Guide | None = None  # prompts that attend to the cache before each eviction
    turn: tuple[int, int] = (0, 0)  # which of the guide's tokens are in this pass, behind the document's
    scratch_bytes: int = 0  # size of the largest temporaries so far
    watch_seconds: float = 0.0  # time the policy spent on columns

    def first_observed(self, layer: BoundedLayer, tokens: int, before: int = 0) -> int:
        """Index of the first of a layer's `tokens` queries that its policy observes; `tokens` if none.

        Args:
            before: number of newer tokens that follow these queries.
        """
        if self.watch_last is None:
            return 0
        opens = layer.interval - self.watch_last
        return min(tokens, max(0, opens - (layer.pending - before - tokens)))

    def rotated(self, layer: BoundedLayer) -> Tensor:
        """A layer's keys [B, Hkv, used, D], rotated by slot or by position in the text."""
        keys = layer.keys[:, :, : layer.used]
        if not self.by_slot:
            return self.rotation.rotate(keys, layer.positions[:, :, : layer.used])
        if not layer.ragged:
            return self.rotation.rotate_range(keys, 0)
        return self.rotation.rotate(keys, layer.ranks())

    @property
    def backend_name(self) -> str:
        """Name of the attention implementation, for results."""
        return self.backend.name if self.backend else "one pass (torch)"
