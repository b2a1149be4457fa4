"""The supervisor's child processes: started, watched, restarted with backoff, ended without orphans."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from store.atomic_files import write_text

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0
STEADY_SECONDS = 60.0  # a child that ran for this long is restarted with the shortest backoff
WATCH_SECONDS = 0.2

Say = Callable[[str], None]


@dataclass
class Child:
    """A program that the supervisor keeps running. `stop_seconds` is how long it may take to stop."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    stop_seconds: float = 20.0
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    backoff: float = field(default=FIRST_BACKOFF)
    restart_at: float | None = None

    def start(self) -> None:
        """Start the program in its own session, so that Ctrl-C reaches only the supervisor."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )
        self.started = time.monotonic()
        self.restart_at = None

    @property
    def alive(self) -> bool:
        """Whether the program is running."""
        return self.process is not None and self.process.poll() is None


class Children:
    """The supervisor's children.

    Their process ids are kept in the file `record`, so that the next supervisor can end what a killed one
    left behind.
    """

    def __init__(self, record: Path, say: Say) -> None:
        self._record = record
        self._say = say
        self._children: dict[str, Child] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self, child: Child) -> None:
        """Start `child` and keep it running."""
        with self._lock:
            self._children[child.name] = child
            child.start()
            self._write_record()
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
            self._watcher.start()

    def stop(self, order: Sequence[str]) -> None:
        """Stop the children named in `order` one after another, then all others."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
        names = [name for name in order if name in self._children]
        for name in names + [name for name in self._children if name not in names]:
            child = self._children[name]
            if child.process is not None:
                _end_group(child.process, child.stop_seconds)
        self._children.clear()
        self._write_record()

    def kill(self) -> None:
        """Kill every child immediately; a `stop` that is waiting for one then continues."""
        self._stopping.set()
        for child in list(self._children.values()):
            if child.process is not None and child.alive:
                with suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_SECONDS):
            with self._lock:
                for child in self._children.values():
                    if not self._stopping.is_set():
                        self._restart_if_ended(child)

    def _restart_if_ended(self, child: Child) -> None:
        now = time.monotonic()
        if child.restart_at is not None:
            if now >= child.restart_at:
                child.start()
                self._write_record()
            return
        if child.alive or child.process is None:
            return
        _end_group(child.process, 0.0)  # a dead worker's own children must not run beside its replacement
        child.backoff = FIRST_BACKOFF if now - child.started > STEADY_SECONDS else child.backoff
        child.restart_at = now + child.backoff
        self._say(
            f"{child.name} ended ({_how(child.process.returncode)}); "
            f"restarting in {child.backoff:.1f} s. See {child.log}"
        )
        child.backoff = min(child.backoff * 2, LONGEST_BACKOFF)

    def _write_record(self) -> None:
        living = []
        for child in self._children.values():
            with suppress(psutil.Error):
                if child.alive and child.process is not None:
                    created = psutil.Process(child.process.pid).create_time()
                    living.append({"name": child.name, "pid": child.process.pid, "created": created})
        write_text(self._record, json.dumps(living) + "\n")


def end_leftovers(record: Path, say: Say) -> None:
    """End the children of a killed supervisor, except where a process id has been reused."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        for entry in json.loads(record.read_text()):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(entry["pid"])
                # The start times come from two clocks; those of different processes differ by far more than
                # this.
                if abs(process.create_time() - entry["created"]) < 0.05:
                    say(f"Ending {entry['name']} (process {process.pid}), left behind by a killed supervisor")
                    _end_group(process, 5.0)
    record.unlink(missing_ok=True)


def _end_group(process: "subprocess.Popen[bytes] | psutil.Process", seconds: float) -> None:
    """Ask the leader of a session to stop, then kill the rest of the session after `seconds`."""
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        if seconds > 0:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
                process.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(psutil.NoSuchProcess):
        process.wait(10)


def _how(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"
