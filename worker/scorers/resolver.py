"""The scorer of a job, decided at its claim: a version of the registry, or the runtime's bundled one.

The database is asked for every job and nothing is cached, so an activation takes effect at the next claim.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from store import log
from store.scorers import registry, rollout, serving
from store.scorers.serving import NotUsable, Plan
from store.tables.jobs import Job
from store.tables.scorers import ScorerVersion
from worker.engine import ScorerPin, Served
from worker.engine.process import WorkerProcess
from worker.engine.scorer_cache import ScorerUnreadable

_log = log.get("worker.scorers.resolver")


@dataclass(frozen=True)
class Resolved:
    """What a job runs with: no scorer where its policy takes none; `shadow` reads the document afterwards."""

    pin: ScorerPin | None
    shadow: ScorerVersion | None = None


class BegunScorerMissing(Exception):
    """This worker cannot load the scorer that the job began with; another worker may."""

    code = "scorer_unreadable"


def resolve(process: WorkerProcess, served: Served, job: Job) -> Resolved:
    """The scorer that serves the job now, loaded; for a job that has begun, the one it began with.

    What the store plans (`store.scorers.serving`) is tried in order, down to the bundled scorer. A job that
    has begun runs with the very same file or not at all: raises BegunScorerMissing.

    Raises the engine's refusal: `scorer_not_used` for a policy without one, `unknown_scorer`,
    `scorer_not_verified`; `scorer_unreadable` where the job names a version and that cannot be loaded.
    """
    own = served.scorer_of(job.policy)
    if own is None:
        return Resolved(served.resolve_scorer(job.policy, job.scorer_requested))
    try:
        plan = process.transaction(lambda session: serving.plan(session, job, own))
    except NotUsable as error:
        raise served.refusal(error.code, str(error)) from None
    for version in plan.candidates:
        try:
            pin = load(process, served, version, job, insist=plan.exact)
        except ScorerUnreadable:
            continue
        # A fallback may be the very version of the canary, which then has nothing to be compared with.
        fell_back_to_it = plan.shadow is version and version is not plan.candidates[0]
        return Resolved(pin, None if fell_back_to_it else plan.shadow)
    if job.scorer is not None:
        return Resolved(_begun_bundled(served, job, plan))
    if plan.bundled is None:
        raise _refusal(served, plan.candidates[0])
    try:
        return Resolved(served.resolve_scorer(job.policy, plan.bundled), plan.shadow)
    except served.refusal:
        if not plan.candidates:
            raise
        raise _refusal(served, plan.candidates[0]) from None  # the runtime has none of this name


def _begun_bundled(served: Served, job: Job, plan: Plan) -> ScorerPin:
    """The bundled scorer that the job began with. Raises BegunScorerMissing if the runtime has another."""
    pin = None
    if plan.bundled is not None:
        with suppress(served.refusal):
            pin = served.resolve_scorer(job.policy, plan.bundled)
    if pin is None or (pin.label, pin.sha256) != (plan.bundled, plan.sha256):
        raise BegunScorerMissing(
            f"The job began with the scorer {job.scorer}, and no worker that took it again could load that "
            "very file. Submit it again to run it with the scorer that serves now."
        )
    return pin


def prefetch(process: WorkerProcess, served: Served) -> None:
    """Loads the versions that serve now, before a job needs them."""
    wanted = process.transaction(lambda session: rollout.wanted(session, process.models))
    for version in wanted:
        try:
            load(process, served, version, None)
        except ScorerUnreadable:
            continue  # recorded; a job that needs it tries again


def load(
    process: WorkerProcess, served: Served, version: ScorerVersion, job: Job | None, *, insist: bool = False
) -> ScorerPin:
    """The version, from the worker's cache. A new failure is recorded. Raises ScorerUnreadable."""
    try:
        return process.scorer_cache.get(version, served.read_scorer, ignore_backoff=insist)
    except ScorerUnreadable as error:
        if error.new:
            _note(process, version, job, str(error))
        raise


def _note(process: WorkerProcess, version: ScorerVersion, job: Job | None, error: str) -> None:
    try:
        with process.database.session() as session:
            rollout.note_failed(session, job, process.worker_id, version, error)
    except SQLAlchemyError as trouble:
        _log.warning("failure_not_noted", scorer=registry.label(version), error=str(trouble))


def _refusal(served: Served, version: ScorerVersion) -> Exception:
    said = (
        f"The worker cannot load the scorer {registry.label(version)}. Try again later or use another scorer."
    )
    return served.refusal("scorer_unreadable", said)
