"""A search on the service's workers finds what it finds in one process, also when a worker is killed."""

import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from namm_runtime.evolve.batches import DocumentSample
from namm_runtime.evolve.config import EvolutionConfig, Stage
from namm_runtime.evolve.evaluators import LocalEvaluator, Task
from namm_runtime.evolve.initial_scorer import build_initial_scorer
from namm_runtime.model.loading import load_model
from palimpsest.commands.evolve import WorkerFleet
from store.outbox import queue_of
from store.settings import Settings
from tests.chaos.conftest import Service, child_of, wait_for
from worker.app_factory import make_app

CONFIG = EvolutionConfig(
    name="small", version="1", stages=(Stage(("kv",), 1),), budget=64, interval=128, tokens=512, questions=2
)
REAL = {
    "PALIMPSEST_ENGINE": "worker.engine:load",
    "PALIMPSEST_MODEL_NAME": "bundled",
    "OMP_NUM_THREADS": "1",
}


def test_candidates_are_examined_by_workers(service: Service, tmp_path: Path) -> None:
    model = load_model("bundled")
    settings = Settings.model_validate({"data_dir": tmp_path, "REDIS_URL": service.environment["REDIS_URL"]})
    scorer = build_initial_scorer(model, CONFIG)
    noise = torch.randn(6, 2, len(scorer.parameters), generator=torch.Generator().manual_seed(0))
    draw = DocumentSample("train", 1, ("kv", "kv"))
    tasks: Sequence[Task] = [(scorer.parameters + 0.1 * part, draw) for part in noise]
    worker = service.worker("gpu0", **REAL)
    fleet = WorkerFleet(make_app(settings), service.files, queue_of("bundled"), CONFIG, model, patience=5)

    killed_after: list[int] = []

    def kill_after_the_first() -> None:
        def scores() -> list[str]:
            return [name for name in service.files.names("evolution") if name.endswith(".marks")]

        wait_for("some scores", scores)
        child_of(worker).kill()
        killed_after.append(len(scores()))

    killer = threading.Thread(target=kill_after_the_first)
    killer.start()
    found = fleet.evaluate(scorer, tasks)
    killer.join()
    assert killed_after
    assert 1 <= killed_after[0] < len(tasks)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker has
    expected = LocalEvaluator(model, CONFIG).evaluate(scorer, tasks)
    torch.set_num_threads(threads)
    assert all(torch.equal(one.score, other.score) for one, other in zip(found, expected, strict=True))
    assert service.files.names("evolution") == []
