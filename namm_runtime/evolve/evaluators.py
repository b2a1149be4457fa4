"""Evaluate candidates in this process, or in a pool of processes."""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from namm_runtime.evolve.batches import DocumentSample, make_document_batch
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.fitness import Scores, evaluate_population
from namm_runtime.model.loading import LoadedModel, load_model
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
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, spawn, initializer=_begin, initargs=(config,))

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


def _begin(config: EvolutionConfig) -> None:
    global _evaluator
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _evaluator = LocalEvaluator(load_model(config.model), config)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _evaluate(scorer: Scorer, task: Task) -> Scores:
    if _evaluator is None:
        raise RuntimeError("the process has no model")
    return _evaluator.evaluate(scorer, [task])[0]
