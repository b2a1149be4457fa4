"""What a data directory says about the service on it: its address, its database, the CLI's own key."""

import fcntl
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from store.atomic_files import write_text
from store.settings import Settings


class LocalError(RuntimeError):
    """The data directory cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Running:
    """The service that runs on a data directory."""

    url: str
    pid: int
    database_url: str | None  # of embedded servers only: a given one may hold a password
    redis_url: str | None


def data_directory(given: Path | None) -> Path:
    """The data directory named on the command line, or the settings' one."""
    return (given or Settings().data_dir).expanduser().absolute()


def settings_with(given: Path | None, server: Literal["DATABASE_URL", "REDIS_URL"]) -> Settings:
    """Settings that name a server: the given one, or that of the service here. Raises LocalError."""
    place, field = data_directory(given), server.lower()
    settings = Settings(data_dir=place)
    if getattr(settings, field) is not None:
        return settings
    running = read_running(place)
    url = getattr(running, field, None)
    if url is None:
        raise LocalError(f"Nothing runs on {place}: start 'palimpsest up' first, or set {server}.")
    return Settings.model_validate({"data_dir": place, server: url})


class Claim:
    """The right to run the service on a data directory; the kernel takes it back when the process dies."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Raises LocalError when another process has it."""
        file = (self._data / "lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            running = read_running(self._data)
            where = f" (process {running.pid}, {running.url})" if running else ""
            raise LocalError(
                f"Palimpsest already runs on {self._data}{where}; stop it first, or choose another --data."
            ) from None
        self._file = file

    def announce(self, running: Running) -> None:
        """Say where the service is, for the command line."""
        write_text(self._data / "service.json", json.dumps(asdict(running)) + "\n", mode=0o600)

    def give_back(self) -> None:
        """Let another process run on the data directory."""
        if self._file is not None:
            (self._data / "service.json").unlink(missing_ok=True)
            self._file.close()
            self._file = None


def read_running(data: Path) -> Running | None:
    """The service that was announced last on `data`, if it has not said goodbye."""
    try:
        return Running(**json.loads((data / "service.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def read_cli_key(data: Path) -> str | None:
    """The key that the command line of this machine uses; only the owner of `data` can read it."""
    try:
        return (data / "cli_key").read_text().strip() or None
    except OSError:
        return None
