"""The Celery tasks. All are idempotent and may run at any time."""

from __future__ import annotations

from store import log
from worker.app import app
from worker.engine.interface import ModelNotLoaded
from worker.engine.process import this_process
from worker.jobs.claim_loop import run_jobs
from worker.names import RUN_EVOLUTION_TASK, RUN_JOBS, VERIFY_SCORERS, WARM_UP
from worker.scorers.evolution_task import run_evolution_task
from worker.scorers.resolver import prefetch
from worker.scorers.verification import verify_uploads

_log = log.get("worker.tasks")
EXPECTED = (ModelNotLoaded,)  # Celery logs them in a line


@app.task(name=RUN_JOBS, throws=EXPECTED)  # type: ignore[untyped-decorator]
def run_waiting_jobs(queue: str) -> None:
    """Jobs wait in `queue`. A duplicate, late or lost message does no harm: Postgres has the jobs."""
    jobs = run_jobs(this_process())
    _log.debug("queue_drained", queue=queue, jobs=jobs)


@app.task(name=WARM_UP, throws=EXPECTED)  # type: ignore[untyped-decorator]
def warm_up() -> None:
    """Loads and registers the model and the active scorers before jobs need them, then runs waiting jobs."""
    prefetch(this_process(), this_process().serve())
    run_jobs(this_process())


@app.task(name=RUN_EVOLUTION_TASK, throws=EXPECTED)  # type: ignore[untyped-decorator]
def evaluate_candidates(task: str, scores: str) -> None:
    """Runs a task of `palimpsest evolve`, after any waiting jobs; both arguments are keys of blobs."""
    run_jobs(this_process())
    run_evolution_task(this_process(), task, scores)


@app.task(name=VERIFY_SCORERS, throws=EXPECTED)  # type: ignore[untyped-decorator]
def verify_scorers() -> None:
    """Verifies uploaded scorers before any more jobs run."""
    verify_uploads(this_process())
