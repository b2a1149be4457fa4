"""A worker process without Celery: the stand-in engine, a database and blobs of the test's own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store import blobs, documents, jobs, tenants, workers
from store.database import Database
from store.settings import Settings
from store.tables.jobs import Job
from worker.engine.process import WorkerProcess

TEXT = b"All work and no play makes Jack a dull boy. " * 40


class Clock:
    """A monotonic clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def config(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("PALIMPSEST_STANDIN_SECONDS", "0")
    return Settings(
        data_dir=tmp_path,
        engine="tests.support.standin:load",
        model_name="small",
        progress_seconds=0.001,
        snapshot_chunks=1,
        chunk_tokens=128,
        renew_seconds=0.1,
    )


@pytest.fixture
def db(config: Settings) -> Iterator[Database]:
    database = Database(config.database)
    yield database
    database.close()


@pytest.fixture
def process(config: Settings, db: Database) -> WorkerProcess:
    with db.session() as session:
        workers.register(session, "wrk_test", "here", "cpu")
    return WorkerProcess(config, db, "wrk_test")


@pytest.fixture
def tenant(db: Database) -> str:
    with db.session() as session:
        return tenants.ensure(session)


@pytest.fixture
def submit(db: Database, config: Settings, tenant: str) -> Callable[..., Job]:
    """Stores a document and queues a job on it."""

    def create(text: bytes = TEXT, **changes: object) -> Job:
        key = documents.new_document_id()
        with blobs.connect(config).create(documents.blob_key_of(tenant, key)) as file:
            file.write(text)
        asked: dict[str, object] = {"task": "ask", "prompts": ["Who?"], "model": "small", "policy": "window"}
        with db.session() as session:
            documents.create(
                session, tenant, key, sha256="", size=len(text), media_type="text/plain", filename=None
            )
            job = jobs.NewJob(document_id=key, **{**asked, **changes})  # type: ignore[arg-type]
            return jobs.create(session, tenant, job)

    return create
