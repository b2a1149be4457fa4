"""The BAM scorer (backward attention memory): about four thousand parameters shared by all layers and heads.

Each token's features attend to those of itself and newer tokens, so that newer tokens can mark it as
redundant. Reversed in time, that is an ordinary causal mask, which flash kernels support.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from namm_runtime.attention.backends import causal


@dataclass(frozen=True)
class Bam:
    """Shapes of the network. Parameters are flat vectors, so that a population can be scored in one batch.

    The flat order is that of the reference implementation; with 25 features and width 32 it has 4,172
    numbers.

    Attributes:
        multiply: whether attention also scales its token's features instead of only adding to them.
        bias: whether the attention has biases; the head always has one.
    """

    features: int = 25
    width: int = 32
    multiply: bool = True
    bias: bool = True

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        f, w = self.features, self.width
        out = 2 * f if self.multiply else f
        shapes = {
            "attn.qkv.weight": (f, 3 * w),
            "attn.qkv.bias": (3 * w,),
            "attn.out.weight": (w, out),
            "attn.out.bias": (out,),
            "head.weight": (f, 1),
            "head.bias": (1,),
        }
        dropped = () if self.bias else ("attn.qkv.bias", "attn.out.bias")
        return {name: shape for name, shape in shapes.items() if name not in dropped}

    @property
    def size(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Views [..., *shape] of a flat vector [..., size]."""
        return split_flat(flat, self.shapes)

    def score(self, flat: Tensor, x: Tensor) -> Tensor:
        """Score x [B, H, N, features], tokens in text order → [B, H, N].

        Args:
            flat: [size] for all rows, or [B, size] with one parameter vector per row.
        """
        if flat.dim() == 1:
            flat = flat.unsqueeze(0)
        p = {name: part.unsqueeze(1) for name, part in self.split(flat).items()}
        newest_first = x.flip(-2)
        qkv = linear(newest_first, p, "attn.qkv")
        q, k, v = qkv.chunk(3, dim=-1)
        attended = causal(x.device)[0](q, k, v)
        update = linear(attended, p, "attn.out")
        if self.multiply:
            residual, multiplier = update.chunk(2, dim=-1)
            y = newest_first * (1 + multiplier) + residual
        else:
            y = newest_first + update
        return linear(y, p, "head").squeeze(-1).flip(-1)


def split_flat(flat: Tensor, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Split a flat vector [..., size] into named views [..., *shape]."""
    parts = torch.split(flat, [torch.Size(shape).numel() for shape in shapes.values()], dim=-1)
    return {
        name: part.view(*part.shape[:-1], *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def linear(x: Tensor, parameters: dict[str, Tensor], name: str) -> Tensor:
    """x [..., N, in] times the weight [..., in, out], plus the bias [..., out] if there is one."""
    y = x @ parameters[f"{name}.weight"]
    bias = parameters.get(f"{name}.bias")
    return y if bias is None else y + bias.unsqueeze(-2)
