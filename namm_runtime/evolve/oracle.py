"""The oracle that knows which slots the questions will need."""

from collections.abc import Mapping

import torch
from torch import Tensor

from namm_runtime.attention.spectrogram import BINS, Spectrogram
from namm_runtime.cache import BoundedLayer
from namm_runtime.policies.base import Policy
from namm_runtime.policies.keydiff import key_similarity


class Teacher(Policy):
    """Keeps the slots that are needed, and a random choice of the rest.

    At every eviction it accumulates moments of each slot's spectrum and key similarity, over all layers,
    heads and documents.

    Args:
        until: [B, T], as in `DocumentBatch`.
    """

    name = "teacher"
    observes = True
    state: Mapping[str, int] = Spectrogram.state

    def __init__(self, until: Tensor, seed: int) -> None:
        self.until = until
        self.spectrogram = Spectrogram()
        self.random = torch.Generator().manual_seed(seed)
        self.count = 0
        self.sums = torch.zeros(2, BINS + 1, dtype=torch.float64)

    def observe(self, layer: BoundedLayer, columns: Tensor) -> None:
        self.spectrogram.fold_into(layer.state, columns)

    def scores(self, layer: BoundedLayer) -> Tensor:
        similarity = key_similarity(layer)
        inputs = torch.cat((layer.state["ema"][:, :, : layer.used], similarity.unsqueeze(-1)), dim=-1)
        pooled = inputs.flatten(0, -2).double().cpu()
        self.count += len(pooled)
        self.sums += torch.stack((pooled.sum(0), pooled.square().sum(0)))
        return needed_in(layer, self.until) + torch.rand(similarity.shape, generator=self.random).to(
            similarity.device
        )

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, [18] each: 17 spectral bins, then key similarity."""
        mean = self.sums[0] / self.count
        return mean.float(), (self.sums[1] / self.count - mean.square()).clamp(min=1e-14).float()


def needed_in(layer: BoundedLayer, until: Tensor) -> Tensor:
    """1 for each slot [B, Hkv, used] whose token is still needed (until [B, T]), else 0."""
    positions = layer.positions[:, :, : layer.used]
    rows = torch.arange(len(until), device=until.device)[:, None, None]
    return (until[rows, positions] >= layer.clock).float()
