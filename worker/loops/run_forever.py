"""The main loop of the processes around the workers: repeats a step until SIGTERM."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from store import log
from worker.unavailable import SERVER_UNAVAILABLE

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0


def forever(name: str, step: Callable[[], object]) -> None:
    """Calls `step`, which does its own waiting. While a server is unavailable it backs off exponentially."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logger = log.get(f"worker.{name}")
    logger.info("started")

    def warn(state: RetryCallState) -> None:
        assert state.outcome is not None  # it is called after a failure
        logger.warning(
            "server_unavailable", error=str(state.outcome.exception()), retry_seconds=state.upcoming_sleep
        )

    retrying = Retrying(
        retry=retry_if_exception_type(SERVER_UNAVAILABLE),
        wait=wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
        before_sleep=warn,
    )
    while True:
        try:
            retrying(step)
        except KeyboardInterrupt:
            return
