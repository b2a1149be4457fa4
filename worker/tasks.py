"""The Celery tasks. All are harmless at any time and any number of times."""

from __future__ import annotations

from store import log
from worker.app import app
from worker.engine.process import this_process
from worker.jobs.claim_loop import drain_jobs
from worker.names import DRAIN, EXAMINE, VERIFY, WARM
from worker.scorers.evolution_task import examine_candidates
from worker.scorers.resolver import prefetch
from worker.scorers.verification import verify_uploads

_log = log.get("worker.tasks")


@app.task(name=DRAIN)  # type: ignore[untyped-decorator]
def drain(queue: str) -> None:
    """Work is available in `queue`. A duplicate, late or lost message does no harm: Postgres has the jobs."""
    worked = drain_jobs(this_process())
    _log.debug("drained", queue=queue, jobs=worked)


@app.task(name=WARM)  # type: ignore[untyped-decorator]
def warm() -> None:
    """Loads the model and the scorers that serve before jobs come, registers them, then looks for work."""
    prefetch(this_process(), this_process().serve())
    drain_jobs(this_process())


@app.task(name=EXAMINE)  # type: ignore[untyped-decorator]
def examine(task: str, marks: str) -> None:
    """Does a task of `palimpsest evolve`, after any jobs; both arguments are keys of blobs."""
    drain_jobs(this_process())
    examine_candidates(this_process(), task, marks)


@app.task(name=VERIFY)  # type: ignore[untyped-decorator]
def verify() -> None:
    """Scorers were uploaded: looks at them, before any more jobs, in a process that may die of it."""
    verify_uploads(this_process())
