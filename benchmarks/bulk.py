"""A bulk job over many documents while processes are killed: is anything lost, duplicated or reordered?

`python -m benchmarks.bulk '{"engine": "stand-in", "count": 10000, "kills": 6}'` prints one line of JSON. It
runs what `palimpsest up` starts: API, relay, conductor, Celery worker, PostgreSQL and Redis. `real` is the
bundled model; `stand-in` answers with a digest of what it read, which reveals lost or duplicated pieces.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from namm_runtime.machine import machine
from namm_runtime.tasks import make_document
from palimpsest.machine.supervisor import Service, running
from tests.support.standin import right_answer

ASKED = {"task": "summarize", "template": "key-points", "points": 1, "max_output_tokens": 24}
STANDIN = {"PALIMPSEST_ENGINE": "tests.support.standin:load", "PALIMPSEST_STANDIN_SECONDS": "0"}
VICTIMS = {  # name → what its command line contains
    "worker": "celery",
    "conductor": "worker.bulk.conductor",
    "api": "uvicorn",
    "scheduler": "worker.loops.scheduler",
    "relay": "worker.loops.relay",
}
PATIENCE = 3 * 3600.0


def measure(engine: str, count: int, kills: int = 6, seed: int = 0) -> dict[str, Any]:
    """One row. `wrong` counts lines whose answer is not the correct one for their document."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="palimpsest-bench-") as place:
        folder = Path(place) / "documents"
        folder.mkdir()
        paths = [_write(folder, number, engine, rng) for number in range(count)]
        allowed = Path(place) / "sources.toml"
        allowed.write_text(f'[[source]]\nurl = "{folder}"\n')
        environment = {
            "PALIMPSEST_SOURCES_FILE": str(allowed),
            "PALIMPSEST_LEASE_SECONDS": "5",
            "PALIMPSEST_RENEW_SECONDS": "1",
            "PALIMPSEST_REAPER_SECONDS": "1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **(STANDIN if engine == "stand-in" else {}),
        }
        with running(Path(place) / "data", environment=environment) as service:
            begun = time.perf_counter()
            found = _conduct(service, str(folder), kills, rng)
            seconds = time.perf_counter() - begun
            lines = [json.loads(line) for line in _fetch(service, found["id"]).splitlines()]
        expected = sorted(path.name for path in paths)
        if engine == "stand-in":
            wrong = sum(not _right(folder, line) for line in lines)
        else:
            wrong = sum(not line["complete"] or len(line["summary"]) != 1 for line in lines)
    return {
        "engine": engine,
        "documents": count,
        "kills": kills,
        "state": found["state"],
        "lost": len(set(expected) - {line["path"] for line in lines}),
        "doubled": len(lines) - len({line["path"] for line in lines}),
        "in_order": [line["path"] for line in lines] == expected,
        "wrong": wrong,
        "seconds": round(seconds, 1),
        "documents_per_minute": round(60 * count / seconds, 1),
        "machine": machine(),
    }


def _write(folder: Path, number: int, engine: str, rng: random.Random) -> Path:
    path = folder / f"{number:05}.txt"
    if engine == "stand-in":
        path.write_text(f"Document {number} says {rng.random()}. " * rng.randint(1, 20))
    else:
        path.write_text(
            make_document(rng.randint(1_500, 6_000), 2, seed=number, split="test", filler="minutes").text
        )
    return path


def _right(folder: Path, line: dict[str, Any]) -> bool:
    text = (folder / line["path"]).read_bytes()
    return bool(line["summary"] == [right_answer(text, "Key point 1:")])


def _conduct(service: Service, source: str, kills: int, rng: random.Random) -> dict[str, Any]:
    """Start the bulk job and wait for its end, killing one process after the other on the way."""
    with _client(service) as client:
        body = {"source": source, "job": {**ASKED, "policy": _policy(client)}, "digest": False}
        bulk: dict[str, Any] = client.post("/v1/bulk", json=body).raise_for_status().json()
        deadline, done = time.monotonic() + PATIENCE, 0
        while time.monotonic() < deadline:
            time.sleep(0.5)
            try:
                bulk = client.get(f"/v1/bulk/{bulk['id']}").raise_for_status().json()
            except httpx.HTTPError:
                continue  # the API was killed
            if bulk["state"] in ("succeeded", "failed", "cancelled"):
                return bulk
            progress = bulk["progress"]
            if done < kills and progress["done"] * (kills + 1) > progress["documents"] * (done + 1) > 0:
                done += 1
                _kill(rng.choice(tuple(VICTIMS)))
    raise TimeoutError(f"{bulk['id']} is still {bulk['state']}")


def _policy(client: httpx.Client) -> str:
    known = client.get("/v1/models").json()["data"][0]["policies"]
    return "window" if known and "window" in known else "namm-key"


def _kill(name: str) -> None:
    """Kill a child process and its workers; the supervisor restarts them."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if VICTIMS[name] in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)


def _fetch(service: Service, bulk_id: str) -> str:
    with _client(service) as client:
        return client.get(f"/v1/bulk/{bulk_id}/bundle/documents.jsonl").raise_for_status().text


def _client(service: Service) -> httpx.Client:
    headers = {"authorization": f"Bearer {service.api_key}"}
    return httpx.Client(base_url=service.base_url, headers=headers, timeout=60.0, trust_env=False)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
