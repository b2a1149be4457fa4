"""What the attention function is told beside the tensors: one object a forward pass."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from namm_runtime.attention.backends import Backend
from namm_runtime.attention.rope import Rotation
from namm_runtime.cache import BoundedCache, BoundedLayer


class Observer(Protocol):
    """What attention needs of a policy."""

    @property
    def observes(self) -> bool: ...

    def observe(self, layer: BoundedLayer, columns: Tensor) -> None: ...


@dataclass
class Context:
    """What one forward pass carries to every layer's attention."""

    cache: BoundedCache
    policy: Observer
    rotation: Rotation
    by_slot: bool  # rotate by slot (cache-relative) instead of by place in the text
    backend: Backend | None = None  # of two passes; None is the one pass below
    watch_last: int | None = None  # policies see only so many queries before each eviction; None: all of them
    scratch_bytes: int = 0  # of the largest temporaries so far
    watch_seconds: float = 0.0  # spent by the policy on columns

    def first_observed(self, layer: BoundedLayer, tokens: int, before: int = 0) -> int:
        """Which of a layer's newest `tokens` queries is the first that its policy sees, at most `tokens`.

        Args:
            before: tokens that came after those.
        """
        if self.watch_last is None:
            return 0
        opens = layer.interval - self.watch_last
        return min(tokens, max(0, opens - (layer.pending - before - tokens)))

    @property
    def backend_name(self) -> str:
        """Which attention runs, for results to say."""
        return self.backend.name if self.backend else "one pass (torch)"
