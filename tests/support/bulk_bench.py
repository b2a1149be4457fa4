"""An API with a conductor and a worker that a test sets going, and folders that its sources file allows."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from store import blobs
from store.bulk import ENDED
from store.sources import folders
from tests.conftest import Api, api_on
from worker.bulk.conductor import Conductor
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs

SUMMARIZE = {"task": "summarize", "points": 1}
PROMPT = "Key point 1:"
SECRET = "not-for-anybody-else"

TEXTS = {"a.txt": "First. " * 20, "b.txt": "Second. " * 20, "c.md": "Third. " * 20}


@dataclass
class BulkBench:
    """`source` may be read by all, `theirs` by another tenant only, bundles may be written to `target`."""

    api: Api
    client: httpx.Client
    conductor: Conductor
    process: WorkerProcess
    source: Path
    theirs: Path
    target: Path

    def upload(self, text: str, name: str | None = None) -> str:
        params = {} if name is None else {"name": name}
        headers = {"content-type": "text/plain"}
        made = self.client.post("/v1/documents", content=text.encode(), params=params, headers=headers)
        assert made.status_code == 201, made.text
        found: str = made.json()["id"]
        return found

    def begin(self, **body: Any) -> dict[str, Any]:
        response = self.client.post("/v1/bulk", json={"job": SUMMARIZE, **body})
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        assert response.headers["location"] == f"/v1/bulk/{made['id']}"
        return made

    def look(self, bulk_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/v1/bulk/{bulk_id}").json()
        return found

    def work(self) -> None:
        """A round of the conductor, then what there is to do for the worker."""
        self.conductor.round()
        run_jobs(self.process)

    def end(self, bulk_id: str, rounds: int = 60) -> dict[str, Any]:
        for _ in range(rounds):
            self.work()
            found = self.look(bulk_id)
            if found["state"] in ENDED:
                return found
        raise AssertionError(f"{bulk_id} is still {found['state']}")

    @contextmanager
    def working(self) -> Iterator[None]:
        """Conductor and worker go on by themselves, for as long as the block lasts."""
        stop = threading.Event()

        def loop() -> None:
            while not stop.wait(0.02):
                self.work()

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def bundle(self, bulk_id: str, name: str) -> str:
        response = self.client.get(f"/v1/bulk/{bulk_id}/bundle/{name}")
        assert response.status_code == 200, response.text
        return response.text

    def lines(self, bulk_id: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.bundle(bulk_id, "documents.jsonl").splitlines()]


@contextmanager
def bulk_bench(
    database_url: str,
    redis_url: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    granted: str = "",
    **settings: Any,
) -> Iterator[BulkBench]:
    """The stand-in engine under the name of the bundled model, whose template asks for each point.

    `granted` is more of the sources file.
    """
    monkeypatch.setenv("PALIMPSEST_STANDIN_SECONDS", "0")
    source, theirs, target = (place / name for name in ("source", "theirs", "target"))
    for folder in (source, theirs, target):
        folder.mkdir()
    allowed = place / "sources.toml"
    allowed.write_text(
        f"[[source]]\nurl = '{source}'\n\n"
        f"[[source]]\nurl = '{theirs}'\ntenants = ['ten_other']\n\n"
        f"[[source]]\nurl = '{target}'\nwrite = true\n\n"
        f"[[source]]\nurl = 'memory://shelf'\nwrite = true\noptions = {{secret = '{SECRET}'}}\n"
        f"{granted}"
    )
    standin = {"engine": "tests.support.standin:load", "default_policy": "window"}
    more = {"sources_file": allowed, **standin, **settings}
    with api_on(database_url, redis_url, place / "data", **more) as api, api.client() as client:
        config = api.settings
        conductor = Conductor(config, api.database, blobs.connect(config), folders.connect(config))
        process = WorkerProcess(config, api.database, "wrk_test")
        yield BulkBench(api, client, conductor, process, source, theirs, target)
