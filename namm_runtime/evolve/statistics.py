"""Means and variances that normalise a scorer's inputs, and the teacher that keeps what is needed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from namm_runtime.cache import BoundedLayer
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.exam import Draw, make_exam
from namm_runtime.loading import LoadedModel
from namm_runtime.memory import Memory
from namm_runtime.policies.base import Policy
from namm_runtime.policies.keydiff import key_similarity
from namm_runtime.spectrogram import BINS, Spectrogram

DOCUMENTS = 12


class Teacher(Policy):
    """Keeps what the document's author knows to be needed, and a random choice of the rest.

    Pools every slot's spectrum and key similarity, once an eviction, over layers, heads and documents.

    Args:
        until: [B, T], as in `Exam`.
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
    """1 for each slot [B, Hkv, used] whose token is needed by now (until [B, T]), else 0."""
    positions = layer.positions[:, :, : layer.used]
    rows = torch.arange(len(until), device=until.device)[:, None, None]
    return (until[rows, positions] >= layer.clock).float()


def training_draw(config: EvolutionConfig, documents: int, seed: int) -> Draw:
    """Documents of every family in turn."""
    families = config.families(len(config.stages))
    return Draw("train", seed, tuple(families[i % len(families)] for i in range(documents)))


def gather(model: LoadedModel, config: EvolutionConfig) -> tuple[Tensor, Tensor]:
    """Statistics over training documents, from the cache that the config names → mean, variance [18]."""
    exam = make_exam(model, config, training_draw(config, DOCUMENTS, -1_000_000))
    teacher = Teacher(exam.until, config.seed)
    budget = config.budget if config.statistics == "regime" else config.tokens
    Memory(model, teacher, budget, config.interval, by_slot=True).feed(exam.documents)
    return teacher.moments()
