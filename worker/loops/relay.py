"""The relay: moves hints from the outbox to Celery. `python -m worker.loops.relay`"""

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
from worker.names import RUN_JOBS, VERIFY_SCORERS

Publish = Callable[[Sequence[Hint]], None]


def publisher(celery: Celery) -> Publish:
    """Sends hints through Celery; raises kombu's OperationalError if the broker is unavailable."""

    def publish(hints: Sequence[Hint]) -> None:
        for hint in hints:
            # A Queue object, because this app does not declare the queues of all models.
            queue = Queue(hint.queue)
            if hint.queue == outbox.SCORERS:
                celery.send_task(VERIFY_SCORERS, queue=queue, retry=False)
            else:
                celery.send_task(RUN_JOBS, args=[hint.queue], queue=queue, retry=False)

    return publish


def relay_once(database: Database, publish: Publish) -> int:
    """Sends the waiting hints and removes them in one transaction; returns how many.

    If it dies in between, they are sent again: a duplicate does no harm, a lost hint would.
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
                # Listen before looking, so that a hint added in between ends the wait.
                while relay_once(database, publish):
                    pass
                outbox.wait(heard, config.relay_seconds)

    forever("relay", step)


if __name__ == "__main__":
    main()
