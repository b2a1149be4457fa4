"""Processes of a pool are single-threaded and exit with their parent, however it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from namm_runtime.process_pool import ProcessPool

SEEN: list[str] = []

PARENT = """
import os, time
from namm_runtime.process_pool import ProcessPool
if __name__ == "__main__":
    with ProcessPool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""

CHILD = """
import time
from namm_runtime.process_pool import exit_at_end_of_input
exit_at_end_of_input()
time.sleep(60)
"""


def remember(*values: str) -> None:
    SEEN.extend(values)


def seen() -> tuple[list[str], int]:
    return SEEN, torch.get_num_threads()


def test_processes_are_initialised_and_have_one_thread():
    with ProcessPool(1, remember, "a", "b") as pool:
        assert pool.submit(seen).result() == (["a", "b"], 1)


def test_an_error_in_the_block_cancels_what_has_not_started():
    futures = []

    def submit_and_fail() -> None:
        with ProcessPool(1) as pool:
            futures.extend(pool.submit(time.sleep, 0.2) for _ in range(20))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        submit_and_fail()
    assert any(future.cancelled() for future in futures)


def test_a_killed_parent_takes_its_processes_along(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if _is_zombie(child):  # no init process reaps orphans in some containers
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the process outlived its parent")


def test_a_closed_input_ends_the_process():
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=30) == 1


def _is_zombie(process: int) -> bool:
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"
