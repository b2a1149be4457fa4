"""The supervisor's children: restarted with growing pauses, ended with everything they started."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from palimpsest.machine import child_processes
from palimpsest.machine.child_processes import Child, Children, end_leftovers

SLEEP = "import time; time.sleep(600)"
# A leader that ignores a polite end and has a child of its own in its session.
STUBBORN = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); print('ready', flush=True); time.sleep(600)"
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def children(tmp_path: Path, said: list[str]) -> Iterator[Children]:
    found = Children(tmp_path / "children.json", said.append)
    yield found
    found.stop([])


def child(tmp_path: Path, code: str, name: str = "one", stop_seconds: float = 10.0) -> Child:
    return Child(name, [sys.executable, "-c", code], dict(os.environ), tmp_path / f"{name}.log", stop_seconds)


def recorded(tmp_path: Path) -> psutil.Process:
    """The only child in the record."""
    [entry] = json.loads((tmp_path / "children.json").read_text())
    return psutil.Process(entry["pid"])


def eventually(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_child_that_keeps_dying_is_started_with_growing_pauses(
    tmp_path: Path, children: Children, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_processes, "WATCH_SECONDS", 0.01)
    dying = child(tmp_path, "import sys; print('alive'); sys.exit(3)")
    dying.backoff = 0.01
    children.start(dying)
    eventually(lambda: len(said) >= 4)
    assert [sentence.split("restarting in ")[1].split(" s")[0] for sentence in said[:4]] == [
        "0.0",
        "0.0",
        "0.0",
        "0.1",
    ]
    assert "one ended (exit code 3)" in said[0]
    assert str(dying.log) in said[0]
    assert dying.log.read_text().count("alive") >= 3


def test_the_pause_has_a_longest_and_a_steady_child_starts_from_the_shortest(tmp_path: Path) -> None:
    children = Children(tmp_path / "children.json", lambda sentence: None)
    dying = child(tmp_path, "pass")
    for _ in range(10):
        dying.start()
        assert dying.process is not None
        dying.process.wait()
        children._restart_if_ended(dying)
        dying.restart_at = None
    assert dying.backoff == child_processes.LONGEST_BACKOFF
    dying.started -= child_processes.STEADY_SECONDS + 1
    children._restart_if_ended(dying)
    assert dying.backoff == 2 * child_processes.FIRST_BACKOFF


def test_stop_ends_a_stubborn_child_and_its_own_children(tmp_path: Path, children: Children) -> None:
    stubborn = child(tmp_path, STUBBORN, stop_seconds=0.2)
    children.start(stubborn)
    eventually(lambda: "ready" in stubborn.log.read_text())
    family = recorded(tmp_path).children(recursive=True)
    assert family
    children.stop([])
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert json.loads((tmp_path / "children.json").read_text()) == []


def test_children_end_in_the_order_that_was_asked_for(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        children.start(child(tmp_path, SLEEP, name))
    ended: list[list[str]] = []
    end = child_processes._end_group

    def noting(process: object, seconds: float) -> None:
        ended.append([name for name in ("a", "b", "c") if children._children[name].alive])
        end(process, seconds)  # type: ignore[arg-type]

    monkeypatch.setattr(child_processes, "_end_group", noting)
    children.stop(["c", "a"])
    assert ended == [["a", "b", "c"], ["a", "b"], ["b"]]


def test_leftovers_are_ended_but_a_reused_process_id_is_not(tmp_path: Path, said: list[str]) -> None:
    record = tmp_path / "children.json"
    left = Children(record, said.append)
    left.start(child(tmp_path, SLEEP))
    process = recorded(tmp_path)
    left._stopping.set()  # as if its supervisor were gone
    entry = json.loads(record.read_text())[0]
    record.write_text(json.dumps([{**entry, "created": entry["created"] - 100}]))
    end_leftovers(record, said.append)
    assert process.is_running()
    assert said == []
    record.write_text(json.dumps([entry]))
    end_leftovers(record, said.append)
    assert not process.is_running()
    assert "left behind" in said[0]
    assert not record.exists()


def test_an_unreadable_record_is_no_obstacle(tmp_path: Path, said: list[str]) -> None:
    record = tmp_path / "children.json"
    for content in ("", "{", '[{"pid": "x"}]', "[1]"):
        record.write_text(content)
        end_leftovers(record, said.append)
        assert not record.exists()


def test_kill_lets_a_waiting_stop_go_on(tmp_path: Path, children: Children) -> None:
    stubborn = child(tmp_path, STUBBORN, stop_seconds=600)
    children.start(stubborn)
    eventually(lambda: "ready" in stubborn.log.read_text())
    children.kill()
    children.stop([])
    assert stubborn.process is not None
    assert stubborn.process.returncode == -signal.SIGKILL
