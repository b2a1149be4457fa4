"""The reaper: cleans up after workers that died and jobs that expired. `python -m worker.loops.reaper`"""

from __future__ import annotations

import time

from store import blobs, jobs, log
from store.billing import storage
from store.blobs import Blobs
from store.database import Database, connect
from store.jobs import reaper
from store.scorers import guardrails, registry
from store.settings import Settings, settings
from worker.jobs.snapshots import folder_of
from worker.loops.run_forever import forever

_log = log.get("worker.loops.reaper")
LEFTOVER_SECONDS = 24 * 3600.0  # a partial file of this age belongs to no upload in progress
LEFTOVERS_EVERY_SECONDS = 3600.0  # finding them means walking the whole store


def reap_once(database: Database, files: Blobs, config: Settings) -> reaper.Reaped:
    """Sweeps leases, deadlines and hints once, and checks the guardrails of canaries.

    Also bills storage and removes the snapshots of ended jobs.
    """
    with database.session() as session:
        reaped = reaper.sweep(session, hint_seconds=config.hint_seconds)
        reaper.forget(session)
    with database.session() as session:
        storage.accrue(session)
    with database.session() as session:
        guardrails.sweep(session)
    if any(reaped):
        _log.info("swept", **reaped._asdict())
    with database.session() as session:
        ended = jobs.ended_with_snapshot(session)
        for job_id in ended:
            files.delete_folder(folder_of(job_id))
        jobs.forget_snapshots(session, ended)
    return reaped


def remove_leftovers(database: Database, files: Blobs) -> None:
    """Removes partial files of killed processes, and uploaded scorers that no row refers to.

    Their transaction failed, or they could not be removed after verification.
    """
    removed = files.remove_leftovers(LEFTOVER_SECONDS)
    old = files.folders_unwritten(registry.UPLOADS, LEFTOVER_SECONDS)
    with database.session() as session:
        waiting = registry.upload_keys(session)
    unnamed = [key for key in old if key not in waiting]
    for key in unnamed:
        files.delete_folder(key)
    if removed or unnamed:
        _log.info("leftovers_removed", files=removed, uploads=len(unnamed))


def main() -> None:
    """Sweeps until SIGTERM."""
    config = settings()
    log.configure(config)
    database, files = connect(config), blobs.connect(config)

    leftovers_due = time.monotonic()

    def step() -> None:
        nonlocal leftovers_due
        reap_once(database, files, config)
        if time.monotonic() >= leftovers_due:
            leftovers_due = time.monotonic() + LEFTOVERS_EVERY_SECONDS
            remove_leftovers(database, files)
        time.sleep(config.reaper_seconds)

    forever("reaper", step)


if __name__ == "__main__":
    main()
