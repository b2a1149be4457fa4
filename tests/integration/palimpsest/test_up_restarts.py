"""`palimpsest up` after kills: of its children, of its servers, and of itself."""

import re
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from palimpsest_client import ApiError, Client
from tests.support.standin import right_answer
from tests.support.up import TEXT, Up, command, eventually, is_server, processes_of

pytestmark = pytest.mark.herd


def test_killed_children_come_back_and_lose_nothing(closed: Path) -> None:
    up = Up.start(closed / "data", PALIMPSEST_LEASE_SECONDS="2", PALIMPSEST_REAPER_SECONDS="0.5")
    with Client(up.url(), up.key()) as client:
        job = client.submit(text=TEXT.decode() * 10, questions=["When?"], policy="window")
        eventually(lambda: (client.job(job["id"])["progress"] or {}).get("tokens_done"), "progress")
        for words in (
            "celery",
            "worker.loops.relay",
            "worker.loops.reaper",
            "worker.webhooks.notifier",
            "worker.bulk.conductor",
            "worker.loops.scheduler",
            "uvicorn",
        ):
            child = up.child(words)
            assert child is not None
            workers = child.children(recursive=True)
            child.kill()
            again = eventually(
                lambda words=words, old=child: (new := up.child(words)) and new.pid != old.pid and new,
                f"another {words}",
            )
            assert psutil.pid_exists(again.pid)
            # A worker's own child must not go on beside the new one.
            assert psutil.wait_procs(workers, timeout=30)[1] == []
        for name in ("postgres", "redis-server"):
            family = psutil.Process(up.process.pid).children()
            [server] = [process for process in family if process.name() == name]
            server.kill()
        eventually(
            lambda: "PostgreSQL" in up.said() and "Redis" in up.said().split("Logs: ")[1], "both again"
        )
        assert re.search(r"==> .*PostgreSQL.* ended; restarting", up.said())
        eventually(lambda: _answers(client), "the API")
        eventually(lambda: client.job(job["id"])["state"] == "succeeded", "the job")
        assert client.result(job["id"])["answers"][0]["text"] == right_answer(TEXT * 10, "When?")
    assert "ended (killed by SIGKILL); restarting in" in up.said()
    assert up.stop(signal.SIGTERM) == 0, up.said()
    assert processes_of(up.data) == []


def _answers(client: Client) -> bool:
    try:
        return bool(client.models())
    except (httpx.TransportError, ApiError):
        return False


def test_after_a_killed_supervisor_the_next_one_cleans_up_and_goes_on(closed: Path) -> None:
    first = Up.start(closed / "data", PALIMPSEST_LEASE_SECONDS="2")
    key = first.key()
    with Client(first.url(), key) as client:
        job = client.submit(text=TEXT.decode(), questions=["When?"], policy="window")
    leftovers = psutil.Process(first.process.pid).children(recursive=True)
    first.process.kill()
    first.process.wait()

    second = Up.start(closed / "data", PALIMPSEST_REAPER_SECONDS="0.5")
    assert "left behind by a killed supervisor" in second.said()
    assert second.said().count("shown only once") == 1
    alive = [process for process in leftovers if process.is_running() and not is_server(process)]
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    with Client(second.url(), key) as client:
        [model] = client.models()["data"]
        assert model["workers_live"] == 1  # the killed one does not count
        eventually(lambda: client.job(job["id"])["state"] == "succeeded", "the job of before")

    own = command("key", "create", "--data", str(second.data)).stdout.strip()
    with Client(second.url(), own) as client:
        assert client.job(job["id"])["state"] == "succeeded"

    refused = command("up", "--data", str(second.data), "--port", "0")
    assert refused.returncode == 1
    assert f"Palimpsest is already running on {second.data}" in refused.stderr
    assert second.url() in refused.stderr
    assert "Traceback" not in refused.stderr
    assert second.stop(signal.SIGINT) == 0
    assert processes_of(second.data) == []
