"""What the prompts of a guided reading have seen in one layer of the cache."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass
class Probe:
    """The state of P prompts with Q tokens in all, in one layer of C slots.

    Attributes:
        queries: [B, Hq, Q, D] of the prompts' latest pass, not rotated.
        normaliser: [B, Hq, Q] fp32, the logarithm of the sum that each token's softmax was divided by then.
        spared: [B, Hkv, P] fp32, share of each prompt's attention that all evictions so far have left.
        attention: [B, Hkv, C, P] fp32, or bf16 if the model computes in 16 bits: each prompt's attention to
            each slot, the mean over its tokens and the largest of the head's group. It moves with the slots;
            those of tokens read since the last pass before an eviction have none yet.
    """

    queries: Tensor
    normaliser: Tensor
    spared: Tensor
    attention: Tensor

    @classmethod
    def before_a_pass(cls, query: Tensor, heads: int, prompts: int, slots: int) -> "Probe":
        """For the queries [B, Hq, Q, D] of all prompts, `heads` KV heads and so many slots."""
        batch, kind = len(query), torch.float32 if query.dtype == torch.float32 else torch.bfloat16
        return cls(
            query.clone(),
            query.new_zeros(query.shape[:3], dtype=torch.float32),
            query.new_ones(batch, heads, prompts, dtype=torch.float32),
            query.new_zeros(batch, heads, slots, prompts, dtype=kind),
        )

    def note(self, averages: Tensor, weights: Tensor, first: int, prompts: range) -> None:
        """Store the attention of some prompts.

        Args:
            averages: [B, P, q] that average the q tokens of each.
            weights: [B, Hkv, G, q, n] fp32, their attention to n slots.
            first: the first of these slots.
        """
        by_prompt = (averages[:, None, None] @ weights).amax(2).transpose(-1, -2)
        end = first + weights.shape[-1]
        self.attention[:, :, first:end, prompts.start : prompts.stop] = by_prompt

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in vars(self).values())

    def saved(self, slots: int) -> dict[str, Tensor]:
        """What a snapshot needs, between an eviction that left so many slots and the prompts' next pass."""
        parts = vars(self) | {"attention": self.attention[:, :, :slots]}
        return {f"probe.{name}": tensor.contiguous() for name, tensor in parts.items()}

    @classmethod
    def of_saved(cls, tensors: Mapping[str, Tensor], slots: int) -> "Probe | None":
        """The inverse of `saved` for a layer of so many slots, None if there is nothing of it."""
        if "probe.spared" not in tensors:
            return None
        probe = cls(*(tensors[f"probe.{field.name}"] for field in fields(cls)))
        batch, heads, kept, prompts = probe.attention.shape
        attention = probe.attention.new_zeros(batch, heads, slots, prompts)
        attention[:, :, :kept] = probe.attention
        return replace(probe, attention=attention)

    def clone(self) -> "Probe":
        return Probe(**{name: tensor.clone() for name, tensor in vars(self).items()})
