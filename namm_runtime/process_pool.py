"""Pools of spawned processes, and child processes that exit when their parent does."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any

import torch


class ProcessPool(ProcessPoolExecutor):
    """A pool of spawned, single-threaded processes, which exit when this process does, even if it is killed.

    Leaving the `with` block cancels what has not started yet.

    Args:
        initializer: called once in every process, with `arguments`.
    """

    def __init__(
        self, processes: int, initializer: Callable[..., None] | None = None, *arguments: Any
    ) -> None:
        spawn = multiprocessing.get_context("spawn")
        super().__init__(processes, spawn, initializer=_start, initargs=(initializer, arguments))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(cancel_futures=True)


def exit_at_end_of_input(descriptor: int = 0) -> None:
    """Exit this process, with status 1, once the pipe that its parent holds is closed.

    For processes that were not started by `multiprocessing`. Reads the descriptor itself instead of
    `sys.stdin`, whose lock the interpreter needs at shutdown.
    """

    def wait() -> None:
        os.read(descriptor, 1)

    _exit_after(wait)


def _start(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        _exit_after(parent.join)
    torch.set_num_threads(1)
    if initializer is not None:
        initializer(*arguments)


def _exit_after(wait: Callable[[], None]) -> None:
    def watch() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
