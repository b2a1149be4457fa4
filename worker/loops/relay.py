"""The relay: takes hints out of the outbox and hands them to Celery. `python -m worker.loops.relay`"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from celery import Celery
from kombu import Queue

from store import jobs, log, outbox
from store.database import Database, connect
from store.outbox import Hint
from store.settings import settings
from worker.app_factory import make_app
from worker.loops.run_forever import forever
from worker.names import DRAIN, VERIFY

Publish = Callable[[Sequence[Hint]], None]


def publisher(celery: Celery) -> Publish:
    """Sends hints through Celery; raises kombu's OperationalError when the broker is away."""

    def publish(hints: Sequence[Hint]) -> None:
        for hint in hints:
            # A Queue object, as this process does not know the queues of all models by name.
            queue = Queue(hint.queue)
            if hint.queue == outbox.SCORERS:
                celery.send_task(VERIFY, queue=queue, retry=False)
            else:
                celery.send_task(DRAIN, args=[hint.queue], queue=queue, retry=False)

    return publish


def relay_once(database: Database, publish: Publish) -> int:
    """Sends what waits, then removes it in the same transaction; gives how many.

    When it dies in between, the hints are sent again: one too many does no harm, one too few would.
    """
    with database.session() as session:
        hints = outbox.lock_hints(session)
        if hints:
            publish(hints)
            jobs.note_hints(session, [hint.job_id for hint in hints if hint.job_id is not None])
            outbox.drop(session, hints)
    return len(hints)


def main() -> None:
    """Relays until SIGTERM."""
    config = settings()
    log.configure(config)
    database = connect(config)
    publish = publisher(make_app(config))

    def step() -> None:
        with outbox.listen(database.engine) as heard:
            while True:
                # Listen first, then look: what is added in between wakes the wait.
                while relay_once(database, publish):
                    pass
                outbox.wait(heard, config.relay_seconds)

    forever("relay", step)


if __name__ == "__main__":
    main()
