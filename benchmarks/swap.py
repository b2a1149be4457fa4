"""How soon a scorer version serves: from the commit of its activation to a claimed job that runs with it.

`python -m benchmarks.swap '{"swaps": 20}'` prints one line of JSON. Worker, model, Postgres and blob store
are those of the service; only Celery's wake-up is left out, since the worker loops.
"""

import json
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import migrations
from benchmarks.measure import machine
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.checkpoint import Scorer
from palimpsest.embedded.servers import EmbeddedServers
from store import documents, jobs, log, tenants, workers
from store.blobs import Blobs
from store.database import Database
from store.scorers import activations, registry
from store.settings import Settings
from store.tables.job_states import TERMINAL, State
from store.tables.scorers import ScorerVersion
from worker.engine import Served, runtime
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import drain_jobs

TEXT = b"The ferry was late again, and nobody on the quay seemed to mind. " * 20
POLICY = "namm-key"
SWAPS = 20
PATIENCE = 120.0
admitted: dict[str, float] = {}  # name@version → when the engine first took a job with it


def load(config: Settings) -> Served:
    """The worker's own engine, which notes what it admits; the setting `engine` names this function."""
    served = runtime.load(config)
    admit = served.engine.admit

    def note(request: Any, snapshot: Path | None = None) -> Any:
        run = admit(request, snapshot)
        admitted.setdefault(f"{request.scorer.name}@{request.scorer.version}", time.perf_counter())
        return run

    served.engine.admit = note  # type: ignore[method-assign]
    return served


def measure(swaps: int = SWAPS) -> list[dict[str, Any]]:
    """One row for a worker that waits for work, one for a worker that always has some."""
    with tempfile.TemporaryDirectory(prefix="palimpsest-bench-") as folder:
        servers = EmbeddedServers(Path(folder) / "servers", durable=False)
        try:
            servers.start(redis=False)
            migrations.upgrade(servers.database_url)
            values = {
                "DATABASE_URL": servers.database_url,
                "data_dir": folder,
                "log_level": "ERROR",
                "engine": f"{__name__}:load",
            }
            config = Settings.model_validate(values)
            log.configure(config)
            database = Database(config.database)
            with database.session() as session:
                workers.register(session, "wrk_bench", "here", "cpu")
                tenants.ensure(session)
            process = WorkerProcess(config, database, "wrk_bench")
            process.serve()
            rows = [_swaps(process, swaps, busy) for busy in (False, True)]
            database.close()
            return [row | {"machine": machine()} for row in rows]
        finally:
            servers.destroy()


def _swaps(process: WorkerProcess, swaps: int, busy: bool) -> dict[str, Any]:
    """Swaps to one new version after the other under a worker's eyes."""
    bundled = checkpoint.load(checkpoint.resolve(POLICY).path)
    document = _document(process)
    ended = threading.Event()
    worker = threading.Thread(target=_work, args=[process, document, busy, ended], daemon=True)
    begun = time.perf_counter()
    worker.start()
    seconds = []
    for number in range(swaps):
        made = replace(bundled, version=f"{'busy' if busy else 'idle'}-{number}")
        row = _publish(process, made)
        with process.database.session() as session:
            activations.activate(session, row, activations.GLOBAL, "key_bench")
        committed = time.perf_counter()
        if not busy:
            _submit(process, document)
        seconds.append(_first_with(registry.label(row), committed) - committed)
        if not busy:
            _wait_for_rest(process)
    ended.set()
    worker.join()
    with process.database.session() as session:
        done = len(jobs.list_jobs(session, tenants.DEFAULT_TENANT, states=["succeeded"], limit=10_000))
    return {
        "load": "busy" if busy else "idle",
        "swaps": swaps,
        "median_seconds": round(statistics.median(seconds), 4),
        "max_seconds": round(max(seconds), 4),
        "jobs": done,
        "document_bytes": len(TEXT),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _first_with(label: str, since: float) -> float:
    while label not in admitted:
        if time.perf_counter() - since > PATIENCE:
            raise TimeoutError(f"no job ran with {label}")
        time.sleep(0.0005)
    return admitted[label]


def _wait_for_rest(process: WorkerProcess) -> None:
    """Until no job is open: a worker that still answers the last one is not idle."""
    states = [state.value for state in State if state not in TERMINAL]
    while True:
        with process.database.session() as session:
            if not jobs.list_jobs(session, tenants.DEFAULT_TENANT, states=states, limit=1):
                return
        time.sleep(0.01)


def _work(process: WorkerProcess, document: str, busy: bool, ended: threading.Event) -> None:
    while not ended.is_set():
        if busy:
            _submit(process, document)
        if not drain_jobs(process):
            time.sleep(0.001)
    drain_jobs(process)


def _document(process: WorkerProcess) -> str:
    tenant, key = tenants.DEFAULT_TENANT, documents.new_document_id()
    with process.blobs.create(documents.blob_key_of(tenant, key)) as file:
        file.write(TEXT)
    with process.database.session() as session:
        about = {"sha256": "", "size": len(TEXT), "media_type": "text/plain", "filename": None}
        documents.create(session, tenant, key, **about)  # type: ignore[arg-type]
    return key


def _submit(process: WorkerProcess, document: str) -> None:
    new = jobs.NewJob(document, "ask", ["Who was late?"], "bundled", POLICY, max_output_tokens=4)
    with process.database.session() as session:
        jobs.create(session, tenants.DEFAULT_TENANT, new)


def _publish(process: WorkerProcess, scorer: Scorer) -> ScorerVersion:
    """A verified version in the registry and the blob store."""
    key = f"scorers/{scorer.name}/{scorer.version}"
    with tempfile.TemporaryDirectory() as folder:
        sha256 = scorer.save(Path(folder))
        _copy(Path(folder), process.blobs, key)
    names = {"name": scorer.name, "version": scorer.version, "kind": "safetensors", "actor": "key_bench"}
    with process.database.session() as session:
        row, _ = registry.upload(session, upload_key=key, upload_sha256=key, **names)
        registry.mark_verified(session, row, blob_key=key, sha256=sha256, manifest={})
    return row


def _copy(folder: Path, blobs: Blobs, key: str) -> None:
    for file in folder.iterdir():
        with blobs.create(f"{key}/{file.name}") as target:
            target.write(file.read_bytes())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
