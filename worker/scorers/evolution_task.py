"""What the task `examine` does: marks candidates of an evolution with the model that is loaded anyway."""

from __future__ import annotations

from store import log
from store.errors import NotFound
from worker.engine.process import WorkerProcess

_log = log.get("worker.scorers.evolution_task")


def examine_candidates(process: WorkerProcess, task: str, marks: str) -> None:
    """Reads the blob `task` and writes the blob `marks`; does nothing if somebody else has done it, or the
    search is over and has taken its tasks away."""
    if process.blobs.exists(marks):
        return
    try:
        with process.blobs.local(task) as path:
            served = process.serve()
            with process.blobs.create_path(marks) as result:
                served.examine(path, result)
                if not process.blobs.exists(task):
                    raise NotFound(f"The blob {task} is gone.")  # nobody would ever read or remove the marks
    except NotFound:
        _log.info("task_gone", task=task)
