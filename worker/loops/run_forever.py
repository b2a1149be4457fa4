"""What the small processes around the workers have in common: a step again and again, until SIGTERM."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable

from store import log
from worker.unavailable import SERVER_UNAVAILABLE

LONGEST_PAUSE = 30.0


def forever(name: str, step: Callable[[], object]) -> None:
    """Calls `step`, which does its own waiting. When a server is away it pauses, longer each time."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logger = log.get(f"worker.{name}")
    logger.info("started")
    pause = 1.0
    while True:
        try:
            step()
            pause = 1.0
        except KeyboardInterrupt:
            return
        except SERVER_UNAVAILABLE as error:
            logger.warning("server_away", error=str(error), retry_seconds=pause)
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
