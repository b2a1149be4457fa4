"""The real processes of the service, small and hasty: leases of two seconds, a sweep every half second."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from store import blobs, documents, jobs, tenants
from store.database import Database
from store.settings import Settings
from store.tables.job_states import TERMINAL
from store.tables.jobs import Job
from tests.support import REPOSITORY
from tests.support.standin import CHUNK

TEXT = b"It was a dark and stormy night; the rain fell in torrents. " * 60
HASTY = {
    "PALIMPSEST_ENGINE": "tests.support.standin:load",
    "PALIMPSEST_MODEL_NAME": "small",
    "PALIMPSEST_LEASE_SECONDS": "2",
    "PALIMPSEST_RENEW_SECONDS": "0.5",
    "PALIMPSEST_PROGRESS_SECONDS": "0.1",
    "PALIMPSEST_SNAPSHOT_CHUNKS": "4",
    "PALIMPSEST_CHUNK_TOKENS": str(CHUNK),
    "PALIMPSEST_REAPER_SECONDS": "0.5",
    "PALIMPSEST_RELAY_SECONDS": "0.5",
    "PALIMPSEST_HINT_SECONDS": "3",
    "PALIMPSEST_HEARTBEAT_SECONDS": "1",
    "PALIMPSEST_STANDIN_SECONDS": "0.05",
    "PALIMPSEST_LOG_FORMAT": "json",
}
PATIENCE = 90.0  # seconds until a test gives up waiting; a loaded machine needs more than an idle one


def wait_for(what: str, look: Callable[[], Any]) -> Any:
    """Waits until `look` gives something true, and gives that."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {PATIENCE:.0f} s in vain for {what}")


class Service:
    """Starts and kills the service's processes, and looks at its database."""

    def __init__(self, database_url: str, redis_url: str, folder: Path) -> None:
        self.environment = {
            **os.environ,
            **HASTY,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "PALIMPSEST_DATA_DIR": str(folder),
            "PYTHONPATH": str(REPOSITORY),
        }
        self.database = Database(database_url)
        self.files = blobs.connect(Settings(data_dir=folder))
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        with self.database.session() as session:
            self.tenant = tenants.ensure(session)

    def start(self, name: str, *command: str, **changes: str) -> psutil.Process:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**self.environment, **changes},
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        return psutil.Process(process.pid)

    def worker(self, name: str, **changes: str) -> psutil.Process:
        options = ["--without-gossip", "--without-mingle", "--hostname", f"{name}@%h"]
        return self.start(name, "celery", "-A", "worker.app", "worker", *options, **changes)

    def loops(self) -> None:
        self.start("relay", "worker.loops.relay")
        self.start("reaper", "worker.loops.reaper")

    def submit(self, **changes: object) -> Job:
        key = documents.new_document_id()
        with self.files.create(documents.blob_key_of(self.tenant, key)) as file:
            file.write(TEXT)
        asked: dict[str, object] = {"task": "ask", "prompts": ["Who?"], "model": "small", "policy": "namm"}
        with self.database.session() as session:
            documents.create(
                session, self.tenant, key, sha256="", size=len(TEXT), media_type="text/plain", filename=None
            )
            new = jobs.NewJob(document_id=key, **{**asked, **changes})  # type: ignore[arg-type]
            return jobs.create(session, self.tenant, new)

    def look(self, job: Job) -> Job:
        with self.database.session() as session:
            return jobs.get(session, self.tenant, job.id)

    def until(self, job: Job, what: str, reached: Callable[[Job], Any]) -> Job:
        def look() -> Job | None:
            seen = self.look(job)
            return seen if reached(seen) else None

        found = wait_for(f"{job.id} to be {what}; now {self.look(job).state}\n{self.logs()}", look)
        assert isinstance(found, Job)
        return found

    def until_ended(self, job: Job) -> Job:
        return self.until(job, "ended", lambda seen: seen.state in TERMINAL)

    def until_snapshot(self, job: Job) -> Job:
        return self.until(job, "past a snapshot", lambda seen: seen.snapshot_key)

    def logs(self) -> str:
        tails = (f"== {file.name}\n{file.read_text()[-3000:]}" for file in sorted(self.folder.glob("*.log")))
        return "\n".join(tails)

    def end(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.database.close()


@pytest.fixture
def service(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    running = Service(database_url, redis_url, tmp_path)
    yield running
    running.end()


def child_of(parent: psutil.Process) -> psutil.Process:
    """The process of a Celery worker that does the work."""
    workers = [child for child in parent.children(recursive=True) if "--billiard-fork" in child.cmdline()]
    assert len(workers) == 1, [child.cmdline() for child in workers]
    return workers[0]
