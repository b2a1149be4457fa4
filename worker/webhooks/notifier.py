"""The notifier: sends events to webhooks. `python -m worker.webhooks.notifier`"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from store import log, outbox
from store.database import Database, connect
from store.settings import settings
from store.webhooks import deliveries
from store.webhooks.deliveries import Due
from worker.loops.run_forever import forever
from worker.unavailable import SERVER_UNAVAILABLE
from worker.webhooks.sender import TIMEOUT_SECONDS, Sender

SENDERS = 16  # messages sent concurrently
LEASE_SECONDS = 4 * TIMEOUT_SECONDS  # far longer than any attempt, so it expires only if a notifier died

_log = log.get("worker.webhooks.notifier")


class Notifier:
    """Sends messages from threads, each of which records the outcome of its own."""

    def __init__(self, database: Database, sender: Sender, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._database = database
        self._sender = sender
        self._lease_seconds = lease_seconds
        self._threads = ThreadPoolExecutor(SENDERS, thread_name_prefix="sender")
        self._free = SENDERS
        self._changed = threading.Condition()

    def step(self) -> int:
        """Fans events out and starts sending what is due to the free senders; returns how many it started."""
        while self._fan_out():
            pass
        with self._changed:
            free = self._free
        if not free:
            return 0
        with self._database.session() as session:
            taken = deliveries.lease_due(session, free, self._lease_seconds)
        with self._changed:
            self._free -= len(taken)
        for due in taken:
            self._threads.submit(self._deliver, due)
        return len(taken)

    def _fan_out(self) -> int:
        with self._database.session() as session:
            return deliveries.fan_out(session)

    def _deliver(self, due: Due) -> None:
        try:
            outcome = self._sender.send(due)
            with self._database.session() as session:
                mine = deliveries.record(session, due, outcome)
            # Without the error, which may quote the receiver's answer; the delivery's log has it.
            delivered = outcome.error is None
            _log.info("sent", delivery=due.id, status=outcome.status, delivered=delivered, recorded=mine)
        except SERVER_UNAVAILABLE as error:
            # The message is sent again after the lease has expired.
            _log.warning("not_recorded", delivery=due.id, error=str(error))
        except Exception:
            _log.exception("sender_failed", delivery=due.id)
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()

    def wait_until_idle(self) -> None:
        """Waits until no message is being sent."""
        with self._changed:
            self._changed.wait_for(lambda: self._free == SENDERS)

    def close(self) -> None:
        """Waits for the messages being sent, then ends the threads."""
        self._threads.shutdown()


def main() -> None:
    """Notifies until SIGTERM."""
    config = settings()
    log.configure(config)
    database = connect(config)
    notifier = Notifier(database, Sender(config))

    def step() -> None:
        with outbox.listen(database.engine, outbox.EVENTS) as heard:
            while True:
                # Listen before looking, so that what is added or recorded in between ends the wait.
                while notifier.step():
                    pass
                with database.session() as session:
                    seconds = deliveries.seconds_until_due(session, config.notifier_seconds)
                outbox.wait(heard, seconds)

    forever("notifier", step)


if __name__ == "__main__":
    main()
