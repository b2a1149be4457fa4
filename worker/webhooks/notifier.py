"""The notifier: tells webhooks of events. `python -m worker.webhooks.notifier`"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from store import log, outbox
from store.database import Database, connect
from store.settings import Settings, settings
from store.webhooks import deliveries
from store.webhooks.deliveries import Due
from worker.loops.run_forever import AWAY, forever
from worker.webhooks.sender import TIMEOUT_SECONDS, Sender

SENDERS = 16  # messages on their way at once
LEASE_SECONDS = 4 * TIMEOUT_SECONDS  # much longer than any attempt: it is for notifiers that died

_log = log.get("worker.webhooks.notifier")


class Notifier:
    """Sends messages from threads, each of which writes down what came of its own."""

    def __init__(self, database: Database, sender: Sender, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._database = database
        self._sender = sender
        self._lease_seconds = lease_seconds
        self._threads = ThreadPoolExecutor(SENDERS, thread_name_prefix="sender")
        self._free = SENDERS
        self._changed = threading.Condition()

    def step(self) -> int:
        """Fans events out and begins to send what is due, as far as senders are free; gives how many."""
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
            # Not the error: it may quote what the receiver answered. The delivery's log has it.
            delivered = outcome.error is None
            _log.info("sent", delivery=due.id, status=outcome.status, delivered=delivered, recorded=mine)
        except AWAY as error:
            # Once the lease has run out the message is sent again.
            _log.warning("not_recorded", delivery=due.id, error=str(error))
        except Exception:
            _log.exception("sender_failed", delivery=due.id)
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()

    def settle(self) -> None:
        """Waits until nothing is on its way."""
        with self._changed:
            self._changed.wait_for(lambda: self._free == SENDERS)

    def close(self) -> None:
        """Lets the messages on their way arrive, and ends the threads."""
        self._threads.shutdown()


def notify_once(database: Database, config: Settings) -> int:
    """Fans out and sends everything that is due, and waits for it; gives how many attempts were made."""
    notifier, attempts = Notifier(database, Sender(config)), 0
    try:
        while begun := notifier.step():
            attempts += begun
            notifier.settle()
        return attempts
    finally:
        notifier.close()


def main() -> None:
    """Notifies until SIGTERM."""
    config = settings()
    log.configure(config)
    database = connect(config)
    notifier = Notifier(database, Sender(config))

    def step() -> None:
        with outbox.listen(database.engine, outbox.EVENTS) as heard:
            while True:
                # Listen first, then look: what is added in between, or is written down, wakes the wait.
                while notifier.step():
                    pass
                with database.session() as session:
                    seconds = deliveries.seconds_until_due(session, config.notifier_seconds)
                outbox.wait(heard, seconds)

    forever("notifier", step)


if __name__ == "__main__":
    main()
