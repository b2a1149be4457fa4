"""The scheduler: starts the runs of schedules and records how they end. `python -m worker.loops.scheduler`"""

from __future__ import annotations

import time

from store import log
from store.database import Database, connect
from store.schedules import runs
from store.settings import Settings, settings
from worker.loops.run_forever import forever

_log = log.get("worker.loops.scheduler")


def schedule_once(database: Database, config: Settings) -> int:
    """Advances every schedule that is due, each in its own transaction; returns how many were advanced."""
    with database.session() as session:
        due = runs.due(session)
    done = 0
    for schedule_id in due:
        try:
            with database.session() as session:
                done += runs.advance(session, config, schedule_id)
        except Exception:
            # A broken schedule must not keep the others from running. If the database is unavailable, the
            # next query raises.
            _log.exception("schedule_failed", schedule_id=schedule_id)
    return done


def main() -> None:
    """Schedules until SIGTERM. Any number of schedulers may run."""
    config = settings()
    log.configure(config)
    database = connect(config)

    def step() -> None:
        schedule_once(database, config)
        time.sleep(config.scheduler_seconds)

    forever("scheduler", step)


if __name__ == "__main__":
    main()
