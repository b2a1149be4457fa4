"""What the workers table says about a worker from its start to its end, and which process holds torch."""

import signal
from pathlib import Path

import psutil
from sqlalchemy import select

from store.tables.scorers import WorkerScorer
from store.workers import ServedModel
from tests.chaos.conftest import Service, child_of, wait_for
from tests.support.models import find_model
from tests.support.registry import activate, add_standin
from tests.support.tiny import WINDOW, save_tiny_llama


def find(service: Service, name: str) -> ServedModel | None:
    with service.database.session() as session:
        return find_model(session, name, 60)


def holds_torch(process: psutil.Process) -> bool:
    return any("libtorch" in found.path for found in process.memory_maps())


def test_model_is_known_before_any_job_and_gone_with_its_worker(service: Service) -> None:
    parent = service.worker("one")
    wait_for("the model to be loaded", lambda: (found := find(service, "small")) and found.loaded)
    parent.send_signal(signal.SIGTERM)
    parent.wait(60)
    assert find(service, "small") is None


def test_a_child_that_replaces_a_killed_one_has_no_scorer_loaded(service: Service) -> None:
    activate(service.database, add_standin(service.database, service.files, "2"))

    def loaded() -> list[str]:
        with service.database.session() as session:
            return list(session.scalars(select(WorkerScorer.scorer)))

    parent = service.worker("one")
    wait_for("the scorer to be loaded", loaded)
    child_of(parent).kill()
    wait_for("the new child to say what it has", lambda: not loaded())


def test_model_that_cannot_be_loaded_says_so(service: Service) -> None:
    service.worker("one", PALIMPSEST_MODEL="unloadable")
    found = wait_for("the error", lambda: (found := find(service, "small")) and found.errors and found)
    assert found.errors == ["There is no such model."]
    assert not found.loaded


def test_only_the_child_holds_torch(service: Service, tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "tiny")
    real = {"PALIMPSEST_ENGINE": "worker.engine:load", "PALIMPSEST_MODEL": str(folder)}
    parent = service.worker("one", PALIMPSEST_MODEL_NAME="tiny", **real)
    wait_for("the model's files to be read", lambda: find(service, "tiny"))
    first = find(service, "tiny")
    assert first is not None
    assert first.card.window == WINDOW
    wait_for("the model to be loaded", lambda: (found := find(service, "tiny")) and found.loaded)
    assert holds_torch(child_of(parent))
    assert not holds_torch(parent)
