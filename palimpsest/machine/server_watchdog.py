"""Restarts an embedded server that dies while the service is running."""

import threading

from palimpsest.embedded.account import EmbeddedError
from palimpsest.embedded.servers import EmbeddedServers
from palimpsest.machine.child_processes import FIRST_BACKOFF, LONGEST_BACKOFF, Say

CHECK_SECONDS = 1.0


class ServerWatchdog:
    """A thread that restarts the selected servers until `stop`."""

    def __init__(self, servers: EmbeddedServers, say: Say, *, postgres: bool, redis: bool) -> None:
        self._servers = servers
        self._say = say
        self._wanted = {"postgres": postgres, "redis": redis}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="server-watchdog", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, after any restart in progress."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        backoff = FIRST_BACKOFF
        while not self._stopping.wait(CHECK_SECONDS):
            ended = self._servers.ended(**self._wanted)
            if not ended:
                continue
            self._say(f"{' and '.join(ended)} ended; restarting. See {self._servers.logs}")
            try:
                self._servers.start(**self._wanted)
                backoff = FIRST_BACKOFF
            except (EmbeddedError, OSError) as error:
                # After PostgreSQL was killed, a new one does not start until the last process of the old one
                # is gone.
                self._say(f"{error}\nNext attempt in {backoff:.1f} s")
                self._stopping.wait(backoff)
                backoff = min(backoff * 2, LONGEST_BACKOFF)
