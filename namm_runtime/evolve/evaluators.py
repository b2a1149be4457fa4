"""Evaluate candidates in this process, or in a pool of processes."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from torch import Tensor

from namm_runtime.evolve.batches import DocumentSample, make_document_batch
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.fitness import Scores, evaluate_population
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.process_pool import ProcessPool
from namm_runtime.scorer.checkpoint import Scorer

Task = tuple[Tensor, DocumentSample]
"""Candidates [P, size], at most `config.group` of them, and the documents that they read."""


class Evaluator(Protocol):
    """Evaluates tasks in any order and on any machine; a task's scores depend on the task alone."""

    def evaluate(self, scorer: Scorer, tasks: Sequence[Task]) -> list[Scores]:
        """[P, D] each, in the order of the tasks."""


class LocalEvaluator:
    """Evaluates in this process."""

    def __init__(self, model: LoadedModel, config: EvolutionConfig) -> None:
        self.model, self.config = model, config

    def evaluate(self, scorer: Scorer, tasks: Sequence[Task]) -> list[Scores]:
        return [
            evaluate_population(
                self.model,
                self.config,
                scorer,
                population,
                make_document_batch(self.model, self.config, sample),
            )
            for population, sample in tasks
        ]


class ProcessPoolEvaluator:
    """Evaluates in a pool of single-threaded processes, which exit when this process does."""

    def __init__(self, config: EvolutionConfig, count: int) -> None:
        self._pool = ProcessPool(count, _initialise, config)

    def evaluate(self, scorer: Scorer, tasks: Sequence[Task]) -> list[Scores]:
        return list(self._pool.map(_evaluate, [scorer] * len(tasks), tasks))

    def __enter__(self) -> "ProcessPoolEvaluator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


# -- in a process of the pool ------------------------------------------------------------------------------

_evaluator: LocalEvaluator | None = None


def _initialise(config: EvolutionConfig) -> None:
    global _evaluator
    _evaluator = LocalEvaluator(load_model(config.model, dtype=config.dtype), config)


def _evaluate(scorer: Scorer, task: Task) -> Scores:
    if _evaluator is None:
        raise RuntimeError("the process has no model")
    return _evaluator.evaluate(scorer, [task])[0]
