"""`palimpsest evolve`: a search whose candidates are examined by the service's workers."""

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from celery import Celery
from kombu import Queue
from rich.console import Console

from palimpsest.commands.common import failing_clearly
from palimpsest.machine.data_directory import LocalError, settings_with
from store import blobs
from store.blobs import PASSING, Blobs
from store.outbox import queue_of
from store.settings import Settings
from worker.app_factory import make_app
from worker.names import EXAMINE

if TYPE_CHECKING:
    from namm_runtime.evolve.config import EvolutionConfig
    from namm_runtime.evolve.evaluators import Task
    from namm_runtime.evolve.fitness import Scores
    from namm_runtime.model.loading import LoadedModel
    from namm_runtime.scorer.checkpoint import Scorer

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 60.0  # without a result, after which messages are sent again

console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


class Fleet:
    """Examines candidates on the Celery workers that serve the model, through the blob store.

    A message carries the names of two blobs, the task's and its marks'. One that is lost is sent again, one
    too many does no harm: the marks of a task are the same whoever makes them. A worker that has jobs does
    them first.
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
        """[P, D] each, in the order of the tasks. Raises Refusal `evolution_failed` as a worker says."""
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
            with suppress(OSError):  # a worker may be writing marks that came twice; the reaper has the rest
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
                    f"No worker has answered on {self._queue} for {self._patience:.0f} seconds: all have "
                    "jobs, or none serves the model. Asking again."
                )
                self._send(missing)
                heard = time.monotonic()

    def _send(self, names: list[tuple[str, str]]) -> None:
        for pair in names:
            self._celery.send_task(EXAMINE, args=list(pair), queue=Queue(self._queue))


def evolve(
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="TOML, as for `namm evolve`.")],
    out: Annotated[Path, typer.Option(help="Where the scorer goes.")],
    work: Annotated[
        Path | None, typer.Option(help="Where the run's state goes; resumed if there. OUT/run if left out.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data directory of the service here; REDIS_URL goes first.")
    ] = None,
) -> None:
    """Evolve a scorer with the candidates spread over the service's workers."""
    from namm_runtime.errors import Refusal
    from namm_runtime.evolve.command import follow, require_extra

    with failing_clearly():
        try:
            require_extra()
            from namm_runtime.evolve.config import EvolutionConfig
            from namm_runtime.evolve.search import Search
            from namm_runtime.model.loading import load_model

            settings = settings_with(data, "REDIS_URL")
            wanted = EvolutionConfig.read(config)
            model = load_model(wanted.model, device=settings.device, dtype=settings.dtype)
            # Workers are known by the name of their model, as jobs know them.
            queue = queue_of(Settings(model=wanted.model).served_model)
            fleet = Fleet(make_app(settings), blobs.connect(settings), queue, wanted, model)
            follow(Search(model, wanted, work or out / "run", fleet), out)
        except Refusal as refusal:
            raise LocalError(f"{refusal.code}: {refusal.message}") from None
