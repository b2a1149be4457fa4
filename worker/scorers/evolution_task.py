"""Runs a task of `palimpsest evolve`: evaluates candidate scorers with the model the worker has loaded."""

from __future__ import annotations

from store import log
from store.errors import NotFound
from worker.engine.process import WorkerProcess

_log = log.get("worker.scorers.evolution_task")


def run_evolution_task(process: WorkerProcess, task: str, scores: str) -> None:
    """Reads the blob `task` and writes the blob `scores`.

    Does nothing if another worker already has, or if the search has ended and removed its tasks.
    """
    if process.blobs.exists(scores):
        return
    try:
        with process.blobs.local(task) as path:
            served = process.serve()
            with process.blobs.create_path(scores) as result:
                served.run_evolution_task(path, result)
                if not process.blobs.exists(task):
                    raise NotFound(f"The blob {task} is gone.")  # nobody would read or remove the scores
    except NotFound:
        _log.info("task_gone", task=task)
