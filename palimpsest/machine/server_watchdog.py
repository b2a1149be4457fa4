"""Keeps the embedded servers alive: one that dies while the service is up is started again."""

import threading

from palimpsest.embedded.account import EmbeddedError
from palimpsest.embedded.servers import EmbeddedServers
from palimpsest.machine.child_processes import FIRST_BACKOFF, LONGEST_BACKOFF, Say

LOOK_SECONDS = 1.0


class Keeper:
    """A thread that looks after the servers that were asked for, until `stop`."""

    def __init__(self, servers: EmbeddedServers, say: Say, *, postgres: bool, redis: bool) -> None:
        self._servers = servers
        self._say = say
        self._wanted = {"postgres": postgres, "redis": redis}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; a start that is under way is waited for."""
        self._stopping.set()
        self._thread.join()

    def _keep(self) -> None:
        backoff = FIRST_BACKOFF
        while not self._stopping.wait(LOOK_SECONDS):
            ended = self._servers.ended(**self._wanted)
            if not ended:
                continue
            self._say(f"{' and '.join(ended)} ended; starting again. See {self._servers.logs}")
            try:
                self._servers.start(**self._wanted)
                backoff = FIRST_BACKOFF
            except (EmbeddedError, OSError) as error:
                # A killed PostgreSQL refuses until its last process is gone.
                self._say(f"{error}\nThe next try is in {backoff:.1f} s")
                self._stopping.wait(backoff)
                backoff = min(backoff * 2, LONGEST_BACKOFF)
