"""The data directory: the address of the service that runs on it, its lock, the command line's key."""

import fcntl
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from store.atomic_files import write_text
from store.settings import Settings


class LocalError(RuntimeError):
    """A command cannot be carried out; the message says why and what to do."""


@dataclass(frozen=True)
class Running:
    """The running service of a data directory."""

    url: str
    pid: int
    database_url: str | None  # of embedded servers only: other URLs may contain a password
    redis_url: str | None


def data_directory(given: Path | None) -> Path:
    """The data directory given on the command line, or that of the settings."""
    return (given or Settings().data_dir).expanduser().absolute()


def settings_with(given: Path | None, server: Literal["DATABASE_URL", "REDIS_URL"]) -> Settings:
    """Settings with the URL of a server: from the environment, or of the running service.

    Raises LocalError.
    """
    place, field = data_directory(given), server.lower()
    settings = Settings(data_dir=place)
    if getattr(settings, field) is not None:
        return settings
    running = read_running(place)
    url = getattr(running, field, None)
    if url is None:
        raise LocalError(f"No service is running on {place}. Start 'palimpsest up', or set {server}.")
    return Settings.model_validate({"data_dir": place, server: url})


class DirectoryLock:
    """A lock on a data directory for the process that runs its service; the kernel releases it on exit."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Raises LocalError if another process holds the lock."""
        file = (self._data / "lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            running = read_running(self._data)
            where = f" (process {running.pid}, {running.url})" if running else ""
            raise LocalError(
                f"Palimpsest is already running on {self._data}{where}. Stop it, or choose another --data."
            ) from None
        self._file = file

    def announce(self, running: Running) -> None:
        """Record the address of the service, for the command line."""
        write_text(self._data / "service.json", json.dumps(asdict(running)) + "\n", mode=0o600)

    def release(self) -> None:
        """Let another process use the data directory."""
        if self._file is not None:
            (self._data / "service.json").unlink(missing_ok=True)
            self._file.close()
            self._file = None


def read_running(data: Path) -> Running | None:
    """The service that was last announced on `data`, unless it shut down cleanly."""
    try:
        return Running(**json.loads((data / "service.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def read_cli_key(data: Path) -> str | None:
    """The command line's own key; only the owner of `data` can read it."""
    try:
        return (data / "cli_key").read_text().strip() or None
    except OSError:
        return None
