"""`palimpsest evolve`: evolves a scorer, with the candidates evaluated by the service's workers."""

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from celery import Celery
from kombu import Queue
from rich.console import Console

from palimpsest.commands.common import reporting_errors
from palimpsest.machine.data_directory import LocalError, settings_with
from store import blobs
from store.blobs import PASSING, Blobs
from store.outbox import queue_of
from worker.app_factory import make_app
from worker.engine.model_files import source_of
from worker.names import RUN_EVOLUTION_TASK

if TYPE_CHECKING:
    from namm_runtime.evolve.config import EvolutionConfig
    from namm_runtime.evolve.evaluators import Task
    from namm_runtime.evolve.fitness import Scores
    from namm_runtime.model.loading import LoadedModel
    from namm_runtime.scorer.checkpoint import Scorer

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 60.0  # without a result, before messages are sent again

console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


class WorkerFleet:
    """Evaluates candidates on the Celery workers that serve the model, through the blob store.

    A message carries the keys of two blobs, the task and its scores. A lost message is sent again, and
    duplicates do no harm, because the scores of a task do not depend on the worker. Workers run jobs first.
    """

    def __init__(
        self,
        celery: Celery,
        store: Blobs,
        queue: str,
        config: "EvolutionConfig",
        model: "LoadedModel",
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._celery, self._store, self._queue = celery, store, queue
        self._config, self._model, self._patience = config, model, patience

    def evaluate(self, scorer: "Scorer", tasks: Sequence["Task"]) -> list["Scores"]:
        """[P, D] each, in the order of the tasks.

        Raises Refusal `evolution_failed` if a worker reports an error.
        """
        from namm_runtime.evolve import task_files

        folder = f"{PASSING}/{uuid.uuid4().hex}"
        names = [(f"{folder}/{number}.task", f"{folder}/{number}.marks") for number in range(len(tasks))]
        try:
            for (name, _), task in zip(names, tasks, strict=True):
                with self._store.create_path(name) as path:
                    task_files.write_task(path, self._config, self._model, scorer, task)
            self._wait(names)
            found = []
            for _, name in names:
                with self._store.local(name) as path:
                    found.append(task_files.read_scores(path))
            return found
        finally:
            with suppress(OSError):  # a worker may be writing duplicate scores; the reaper removes them
                self._store.delete_folder(folder)

    def _wait(self, names: list[tuple[str, str]]) -> None:
        self._send(names)
        missing, heard = names, time.monotonic()
        while missing:
            time.sleep(POLL_SECONDS)
            left = [pair for pair in missing if not self._store.exists(pair[1])]
            if len(left) < len(missing):
                missing, heard = left, time.monotonic()
            elif time.monotonic() - heard > self._patience:
                console.print(
                    f"No worker has answered on {self._queue} for {self._patience:.0f} seconds: all are busy "
                    "with jobs, or none serves the model. Sending the tasks again."
                )
                self._send(missing)
                heard = time.monotonic()

    def _send(self, names: list[tuple[str, str]]) -> None:
        for pair in names:
            self._celery.send_task(RUN_EVOLUTION_TASK, args=list(pair), queue=Queue(self._queue))


def evolve(
    config: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="TOML configuration, as for `namm evolve`.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the evolved scorer.")],
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the state of the search, which is resumed if it exists; default: OUT/run."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data directory of the local service; REDIS_URL takes precedence.")
    ] = None,
) -> None:
    """Evolve a scorer on the service's workers."""
    from namm_runtime.errors import Refusal
    from namm_runtime.evolve.command import follow, require_extra

    with reporting_errors():
        try:
            require_extra()
            from namm_runtime.evolve.config import EvolutionConfig
            from namm_runtime.evolve.search import Search
            from namm_runtime.model.loading import load_model

            settings = settings_with(data, "REDIS_URL")
            wanted = EvolutionConfig.read(config)
            served = settings.model_copy(update={"model": wanted.model})
            model = load_model(source_of(served), device=settings.device, dtype=settings.dtype)
            wanted = replace(wanted, dtype=model.dtype)
            # Queues are named after the served model.
            queue = queue_of(served.served_model)
            fleet = WorkerFleet(make_app(settings), blobs.connect(settings), queue, wanted, model)
            follow(Search(model, wanted, work or out / "run", fleet), out)
        except Refusal as refusal:
            raise LocalError(f"{refusal.code}: {refusal.message}") from None
