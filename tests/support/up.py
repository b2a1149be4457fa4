"""`palimpsest up` in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from palimpsest.machine.data_directory import read_running
from tests.support import REPOSITORY

TEXT = b"The meeting is on Tuesday.\n" * 40
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


def is_server(process: psutil.Process) -> bool:
    return process.name().startswith(("postgres", "redis-server"))
