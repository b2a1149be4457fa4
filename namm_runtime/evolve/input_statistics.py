"""Means and variances that normalise a scorer's inputs, and the teacher that keeps what is needed."""

from torch import Tensor

from namm_runtime.engine.memory import Memory
from namm_runtime.evolve.batches import Draw, make_exam
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.oracle import Teacher
from namm_runtime.model.loading import LoadedModel

DOCUMENTS = 12


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
