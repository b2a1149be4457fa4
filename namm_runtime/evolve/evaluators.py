"""Who examines the candidates: this process, or several."""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from namm_runtime.evolve.batches import Draw, make_exam
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.fitness import Marks, mark_population
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.scorer.checkpoint import Scorer

Task = tuple[Tensor, Draw]
"""Candidates [P, size], at most a group, and the documents that they read."""


class Examiners(Protocol):
    """Marks tasks in any order and place; every task's marks depend on the task alone."""

    def mark(self, scorer: Scorer, tasks: Sequence[Task]) -> list[Marks]:
        """[P, D] each, in the order of the tasks."""


class Here:
    """Examines in this process."""

    def __init__(self, model: LoadedModel, config: EvolutionConfig) -> None:
        self.model, self.config = model, config

    def mark(self, scorer: Scorer, tasks: Sequence[Task]) -> list[Marks]:
        return [
            mark_population(
                self.model, self.config, scorer, population, make_exam(self.model, self.config, draw)
            )
            for population, draw in tasks
        ]


class Processes:
    """Examines in processes of one thread each. They end with this one, however it ends."""

    def __init__(self, config: EvolutionConfig, count: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, spawn, initializer=_begin, initargs=(config,))

    def mark(self, scorer: Scorer, tasks: Sequence[Task]) -> list[Marks]:
        return list(self._pool.map(_mark, [scorer] * len(tasks), tasks))

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


# -- in a process of the pool ------------------------------------------------------------------------------

_here: Here | None = None


def _begin(config: EvolutionConfig) -> None:
    global _here
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _here = Here(load_model(config.model), config)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _mark(scorer: Scorer, task: Task) -> Marks:
    if _here is None:
        raise RuntimeError("the process has no model")
    return _here.mark(scorer, [task])[0]
