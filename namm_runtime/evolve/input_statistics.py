"""Means and variances that normalise a scorer's inputs."""

from torch import Tensor

from namm_runtime.engine.memory import Memory
from namm_runtime.evolve.batches import DocumentSample, make_document_batch
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.oracle import Teacher
from namm_runtime.model.loading import LoadedModel

DOCUMENTS = 12


def training_sample(config: EvolutionConfig, documents: int, seed: int) -> DocumentSample:
    """Training documents, cycling through the families."""
    families = config.families(len(config.stages))
    return DocumentSample("train", seed, tuple(families[i % len(families)] for i in range(documents)))


def gather(model: LoadedModel, config: EvolutionConfig) -> tuple[Tensor, Tensor]:
    """Statistics over training documents, read in the cache that the config names → mean, variance [18]."""
    batch = make_document_batch(model, config, training_sample(config, DOCUMENTS, -1_000_000))
    teacher = Teacher(batch.until, config.seed)
    budget = config.budget if config.statistics == "regime" else config.tokens
    Memory(model, teacher, budget, config.interval, by_slot=True).feed(batch.documents)
    return teacher.moments()
