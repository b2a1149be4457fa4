"""The MLP scorer: a small perceptron that scores each token from its own features alone."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from namm_runtime.scorer.bam import linear, split_flat


@dataclass(frozen=True)
class Mlp:
    """Shapes of the network, with flat parameters like `Bam`.

    From depth 3 on, the reference implementation discards the results of its middle layers (h ← h + relu(h))
    but keeps their parameters in the vector. Its scorers were evolved that way, so it is reproduced here.

    Attributes:
        width: of the hidden layers; unused at depth 1.
        depth: number of linear layers; 1 is a linear score.
        bias: whether the layers have biases.
        residual: add the features to the first hidden layer, which needs width = features.

    Raises (on construction):
        ValueError: shapes that the reference does not define.
    """

    features: int = 25
    width: int = 25
    depth: int = 1
    bias: bool = True
    residual: bool = True

    def __post_init__(self) -> None:
        fits = not self.residual or self.width == self.features
        if self.depth < 1 or (self.depth > 1 and not fits) or (self.depth > 2 and not self.residual):
            raise ValueError(
                f"unsupported MLP scorer: depth {self.depth}, width {self.width}, residual {self.residual}"
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        widths = [self.features, *[self.width] * (self.depth - 1), 1]
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (before, after) in enumerate(pairwise(widths)):
            shapes[f"l{layer}.weight"] = (before, after)
            if self.bias:
                shapes[f"l{layer}.bias"] = (after,)
        return shapes

    @property
    def size(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def score(self, flat: Tensor, x: Tensor) -> Tensor:
        """Score x [B, H, N, features] → [B, H, N].

        Args:
            flat: [size] for all rows, or [B, size] with one parameter vector per row.
        """
        if flat.dim() == 1:
            flat = flat.unsqueeze(0)
        p = {name: part.unsqueeze(1) for name, part in split_flat(flat, self.shapes).items()}
        if self.depth > 1:
            hidden = linear(x, p, "l0").relu()
            x = x + hidden if self.residual else hidden
        for _ in range(self.depth - 2):
            x = x + x.relu()
        return linear(x, p, f"l{self.depth - 1}").squeeze(-1)
