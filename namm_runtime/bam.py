"""The scorer: backward attention memory, about four thousand parameters shared by every layer and head.

Each token's features attend to the features of tokens that are as new or newer, so that what came later can
say it is redundant. Reversed in time that mask is an ordinary causal one, and runs in a flash kernel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLOCKS = ("attn.qkv.weight", "attn.qkv.bias", "attn.out.weight", "attn.out.bias", "head.weight", "head.bias")


@dataclass(frozen=True)
class Bam:
    """Shapes of the network; parameters are passed in flat, so that a population can be scored at once.

    The flat order is that of the reference implementation; for 25 features and width 32 it has 4,172 numbers.
    """

    features: int = 25
    width: int = 32

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        f, w = self.features, self.width
        return dict(zip(BLOCKS, ((f, 3 * w), (3 * w,), (w, 2 * f), (2 * f,), (f, 1), (1,)), strict=True))

    @property
    def size(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Views [..., *shape] of a flat vector [..., size]."""
        parts = torch.split(flat, [torch.Size(shape).numel() for shape in self.shapes.values()], dim=-1)
        return {
            name: part.view(*part.shape[:-1], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def score(self, flat: Tensor, x: Tensor) -> Tensor:
        """Score x [B, H, N, features], tokens in the order of the text → [B, H, N].

        Args:
            flat: [size] for all rows, or [B, size] with one parameter vector a row.
        """
        if flat.dim() == 1:
            flat = flat.unsqueeze(0)
        p = {name: part.unsqueeze(1) for name, part in self.split(flat).items()}
        newest_first = x.flip(-2)
        qkv = newest_first @ p["attn.qkv.weight"] + p["attn.qkv.bias"].unsqueeze(-2)
        q, k, v = qkv.chunk(3, dim=-1)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        update = attended @ p["attn.out.weight"] + p["attn.out.bias"].unsqueeze(-2)
        residual, multiplier = update.chunk(2, dim=-1)
        y = newest_first * (1 + multiplier) + residual
        score: Tensor = y @ p["head.weight"] + p["head.bias"].unsqueeze(-2)
        return score.squeeze(-1).flip(-1)
