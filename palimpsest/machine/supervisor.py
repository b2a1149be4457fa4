"""Runs the whole service on one machine: servers, schema, API, loops and one worker."""

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import migrations
from palimpsest.embedded.placement import make_data_directory, make_directory
from palimpsest.embedded.servers import EmbeddedServers
from palimpsest.machine import access, default_model
from palimpsest.machine.child_processes import Child, Children, Say, end_leftovers
from palimpsest.machine.data_directory import DirectoryLock, LocalError, Running, data_directory
from palimpsest.machine.model_watch import ModelWatch
from palimpsest.machine.server_watchdog import ServerWatchdog
from palimpsest_client import Client
from store.settings import Settings

API_START_SECONDS = 60.0
WORKER_START_SECONDS = 30.0
WORKER_STOP_SECONDS = 60.0
STOP_ORDER = ("worker", "api", "scheduler", "conductor", "notifier", "relay", "reaper")


@dataclass(frozen=True)
class Service:
    """A running service. `first_key` is set only on the first start on a database, and stored nowhere."""

    base_url: str
    api_key: str
    first_key: str | None
    data: Path
    logs: Path
    embedded: EmbeddedServers | None


def commands(host: str, port: int) -> dict[str, list[str]]:
    """The commands of the child processes, in start order; docker-compose runs the same ones."""
    api = ["uvicorn", "api.app:create_app", "--factory", "--host", host, "--port", str(port)]
    worker = ["celery", "--app", "worker.app", "worker", "--without-gossip", "--without-mingle"]
    modules = {
        "relay": ["worker.loops.relay"],
        "reaper": ["worker.loops.reaper"],
        "notifier": ["worker.webhooks.notifier"],
        "conductor": ["worker.bulk.conductor"],
        "scheduler": ["worker.loops.scheduler"],
        "api": [*api, "--timeout-graceful-shutdown", "5"],
        "worker": [*worker, "--hostname", "worker@%h", "--loglevel", "INFO"],
    }
    return {name: [sys.executable, "-m", *arguments] for name, arguments in modules.items()}


class Supervisor:
    """Starts the service in order and stops it in the opposite order."""

    def __init__(
        self, data: Path, *, host: str, port: int, say: Say, environment: Mapping[str, str] | None = None
    ) -> None:
        self._data = data
        self._host = host
        self._port = port
        self._say = say
        self._environment = {**os.environ, **(environment or {}), "PALIMPSEST_DATA_DIR": str(data)}
        self._lock = DirectoryLock(data)
        self._embedded: EmbeddedServers | None = None
        self._children: Children | None = None
        self._watchdog: ServerWatchdog | None = None
        self._model_watch: ModelWatch | None = None

    def start(self) -> Service:
        """Start everything. Raises LocalError, EmbeddedError, after stopping what was started."""
        make_data_directory(self._data)
        self._lock.acquire()
        try:
            return self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> Service:
        logs = make_directory(self._data / "logs", 0o700)
        # The servers' account may need to traverse the data directory; documents are for their owner only.
        make_directory(self._data / "blobs", 0o700)
        record = self._data / "children.json"
        end_leftovers(record, self._say)
        self._children = Children(record, self._say)
        port = free_port(self._host, self._port)
        self._choose_model()
        settings = self._provide_servers()
        self._say("Upgrading the database schema")
        try:
            migrations.upgrade(settings.database)
        except migrations.SchemaLocked as error:
            raise LocalError(str(error)) from None
        own_database = self._embedded is not None and settings.database == self._embedded.database_url
        if own_database:
            # This database was down, so none of the workers registered in it is alive.
            access.forget_workers(settings)
        for name, command in commands(self._host, port).items():
            stop_seconds = WORKER_STOP_SECONDS if name == "worker" else 10.0
            self._children.start(Child(name, command, self._environment, logs / f"{name}.log", stop_seconds))
        shown_host = f"[{self._host}]" if ":" in self._host else self._host
        url = f"http://{shown_host}:{port}"
        self._wait_for_api(url, logs)
        keys = access.prepare(settings, self._data)
        self._wait_for_worker(url, keys.cli_key, logs)
        self._model_watch = ModelWatch(url, keys.cli_key, self._say)
        self._model_watch.start()
        own_redis = self._embedded is not None and self._environment["REDIS_URL"] == self._embedded.redis_url
        self._lock.announce(
            Running(
                url,
                os.getpid(),
                settings.database if own_database else None,
                self._environment["REDIS_URL"] if own_redis else None,
            )
        )
        return Service(url, keys.cli_key, keys.first_key, self._data, logs, self._embedded)

    def _choose_model(self) -> None:
        """Choose the worker's model where no setting names one, and say which it is."""
        choice = default_model.choose(Settings(**_overrides(self._environment)), self._environment)
        self._environment |= choice.environment
        for sentence in choice.sentences:
            self._say(sentence)

    def _provide_servers(self) -> Settings:
        """Start the servers that no setting names; return settings that name all of them."""
        given = Settings(**_overrides(self._environment))
        need_postgres, need_redis = given.database_url is None, given.redis_url is None
        if need_postgres or need_redis:
            self._embedded = EmbeddedServers(self._data)
            if self._embedded.location != self._data:
                self._say(
                    f"The databases are in {self._embedded.location}: their account cannot reach {self._data}"
                )
            self._say("Starting " + " and ".join(["PostgreSQL"] * need_postgres + ["Redis"] * need_redis))
            self._embedded.start(postgres=need_postgres, redis=need_redis)
            self._watchdog = ServerWatchdog(
                self._embedded, self._say, postgres=need_postgres, redis=need_redis
            )
            self._watchdog.start()
        if self._embedded and need_postgres:
            self._environment["DATABASE_URL"] = self._embedded.database_url
        if self._embedded and need_redis:
            self._environment["REDIS_URL"] = self._embedded.redis_url
        return Settings(**_overrides(self._environment))

    def _wait_for_api(self, url: str, logs: Path) -> None:
        self._say("Starting the API, the loops and a worker")
        give_up = time.monotonic() + API_START_SECONDS
        with httpx.Client(timeout=5.0, trust_env=False) as client:
            while time.monotonic() < give_up:
                try:
                    if client.get(f"{url}/healthz").status_code == 200:
                        return
                except httpx.TransportError:
                    time.sleep(0.1)
        tail = "\n".join((logs / "api.log").read_text(errors="replace").splitlines()[-8:])
        raise LocalError(
            f"The API did not start in {API_START_SECONDS:.0f} s. The end of {logs / 'api.log'}:\n{tail}"
        )

    def _wait_for_worker(self, url: str, key: str, logs: Path) -> None:
        """Wait until the worker has registered its model; earlier jobs would be refused for want of one."""
        give_up = time.monotonic() + WORKER_START_SECONDS
        with Client(url, key) as client:
            while time.monotonic() < give_up:
                if any(model["workers_live"] for model in client.models()["data"]):
                    return
                time.sleep(0.1)
        self._say(
            f"The worker has not registered a model yet; jobs wait until it has. See {logs / 'worker.log'}"
        )

    def stop(self) -> None:
        """Stop the worker, API, loops, Redis and PostgreSQL, as far as they run."""
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._model_watch is not None:
            self._model_watch.stop()
        if self._children is not None:
            self._children.stop(STOP_ORDER)
        if self._embedded is not None:
            self._embedded.stop()
        self._lock.release()

    def kill_children(self) -> None:
        """Kill the children that have not stopped yet."""
        if self._children is not None:
            self._children.kill()


def _overrides(environment: Mapping[str, str]) -> dict[str, Any]:
    """Settings from a child's environment, which take precedence over this process's own."""
    named = {name: name for name in ("DATABASE_URL", "REDIS_URL", "NAMM_MODELS")}
    named |= {"PALIMPSEST_DATA_DIR": "data_dir", "PALIMPSEST_API_KEY_PEPPER": "api_key_pepper"}
    named |= {
        "PALIMPSEST_MODEL": "model",
        "PALIMPSEST_DEFAULT_CACHE_BUDGET": "PALIMPSEST_DEFAULT_CACHE_BUDGET",
    }
    return {setting: environment[name] for name, setting in named.items() if environment.get(name)}


def free_port(host: str, port: int) -> int:
    """`port` itself, or a free port for 0. Raises LocalError if it is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise LocalError(
                f"The address {host}:{port} cannot be used ({error.strerror}); "
                "choose another --port (0 picks a free one)."
            ) from error
        return int(probe.getsockname()[1])


@contextmanager
def running(
    data: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    say: Say = lambda sentence: None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """Run the whole service for as long as the block lasts.

    `data` is the data directory (None: that of the settings), `port` 0 picks a free one, `say` is called with
    each step, `environment` is added to that of the children (for example `PALIMPSEST_MODEL`). Raises
    LocalError if the directory or the port is in use, EmbeddedError if a server fails.
    """
    supervisor = Supervisor(data_directory(data), host=host, port=port, say=say, environment=environment)
    try:
        yield supervisor.start()
    finally:
        supervisor.stop()
