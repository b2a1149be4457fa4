"""The scheduler: begins the runs of schedules and notes how they ended. `python -m worker.loops.scheduler`"""

from __future__ import annotations

import time

from store import log
from store.database import Database, connect
from store.schedules import runs
from store.settings import Settings, settings
from worker.loops.run_forever import forever

_log = log.get("worker.loops.scheduler")


def schedule_once(database: Database, config: Settings) -> int:
    """Does what there is to do for each schedule, in a transaction of its own; gives for how many it did."""
    with database.session() as session:
        due = runs.due(session)
    done = 0
    for schedule_id in due:
        try:
            with database.session() as session:
                done += runs.advance(session, config, schedule_id)
        except Exception:
            # One schedule that cannot be seen to must not keep the others from running. If it is the database
            # that is away, the next look at it says so.
            _log.exception("schedule_failed", schedule_id=schedule_id)
    return done


def main() -> None:
    """Looks at the schedules until SIGTERM. Any number of schedulers may run."""
    config = settings()
    log.configure(config)
    database = connect(config)

    def step() -> None:
        schedule_once(database, config)
        time.sleep(config.scheduler_seconds)

    forever("scheduler", step)


if __name__ == "__main__":
    main()
