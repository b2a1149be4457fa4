"""Time named parts by wrapping functions from outside, without changes to the runtime."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch


class Stopwatch:
    """Seconds by part. Time in nested parts is not counted twice, so the parts add up to the total.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]  # for each open part, seconds of the parts nested in it

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = self.clock()
        self._inside.append(0.0)
        try:
            yield
        finally:
            elapsed = self.clock() - begun
            self.seconds[name] += elapsed - self._inside.pop()
            self._inside[-1] += elapsed

    def move(self, source: str, target: str, seconds: float) -> None:
        """Count some of one part's seconds as another part's."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    @contextmanager
    def watching(self, *calls: tuple[Any, str, str]) -> Iterator[None]:
        """Time every call of (owner, attribute, part) until the block ends."""
        with ExitStack() as stack:
            for owner, attribute, name in calls:
                timed = self.timed(getattr(owner, attribute), name)
                stack.enter_context(patch.object(owner, attribute, timed))
            yield

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call
