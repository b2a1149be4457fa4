"""Means and variances that normalise a scorer's inputs, gathered in the regime it will serve in."""

from typing import ClassVar

import torch
from torch import Tensor

from namm_runtime.cache import BoundedLayer
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.fitness import make_exam, sit
from namm_runtime.loading import LoadedModel
from namm_runtime.policies.base import Policy
from namm_runtime.policies.keydiff import key_similarity
from namm_runtime.spectrogram import BINS, Spectrogram


class Gatherer(Policy):
    """Evicts as KeyDiff does and pools every slot's features over layers, heads and evictions."""

    name = "gatherer"
    observes = True
    state: ClassVar[dict[str, int]] = Spectrogram.state

    def __init__(self) -> None:
        self.spectrogram = Spectrogram()
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
        return -similarity

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, [18] each: 17 spectral bins, then key similarity."""
        mean = self.sums[0] / self.count
        return mean.float(), (self.sums[1] / self.count - mean.square()).clamp(min=1e-14).float()


def gather(model: LoadedModel, config: EvolutionConfig, documents: int = 12) -> tuple[Tensor, Tensor]:
    """Statistics over training documents of every kind of filler."""
    gatherer = Gatherer()
    sit(model, config, gatherer, make_exam(model, config, documents, seed=-1, split="train"))
    return gatherer.moments()
