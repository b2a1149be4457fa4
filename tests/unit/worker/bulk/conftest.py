"""A folder of documents, and a conductor and a worker for it."""

from pathlib import Path

import pytest

from store.database import Database
from store.settings import Settings
from tests.support.conductor_bench import Bench
from worker.engine.process import WorkerProcess


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the documents lie, and where bundles go."""
    source = tmp_path / "source"
    for number in range(5):
        (source / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        (source / f"{number % 2}" / f"{number}.txt").write_text(f"Document {number}. " * 12)
    (tmp_path / "target").mkdir()
    return source


@pytest.fixture
def bench(config: Settings, db: Database, process: WorkerProcess, folder: Path, tenant: str) -> Bench:
    return Bench(config, db, process, folder, tenant)
