"""The scorer of a job, decided at its claim: a version of the registry, or the runtime's bundled one.

The database is asked for every job and no choice is remembered, so a swap takes effect at the next claim.
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
from worker.engine.scorer_cache import Unreadable

_log = log.get("worker.scorers.resolver")


@dataclass(frozen=True)
class Chosen:
    """What a job runs with: no scorer for a policy that takes none; a shadow reads it after the answer."""

    pin: ScorerPin | None
    shadow: ScorerVersion | None = None


class NotAtHand(Exception):
    """The job began with a scorer that this worker cannot load; another one perhaps can."""

    code = "scorer_unreadable"


def choose(process: WorkerProcess, served: Served, job: Job) -> Chosen:
    """The scorer that serves the job now, loaded; for a job that has begun, the one it began with.

    What the store plans (`store.scorers.serving`) is tried in order, down to the bundled scorer. A job that
    has begun runs with the very same file or not at all: raises NotAtHand.

    Raises the engine's refusal: `scorer_not_used` for a policy without one, `unknown_scorer`,
    `scorer_not_verified`; `scorer_unreadable` where the job names a version and that cannot be loaded.
    """
    own = served.scorer_of(job.policy)
    if own is None:
        return Chosen(served.resolve_scorer(job.policy, job.scorer_requested))
    try:
        plan = process.transaction(lambda session: serving.plan(session, job, own))
    except NotUsable as error:
        raise served.refusal(error.code, str(error)) from None
    for version in plan.candidates:
        try:
            pin = take(process, served, version, job, insist=plan.exact)
        except Unreadable:
            continue
        same = plan.shadow is not None and plan.shadow.id == version.id
        return Chosen(pin, None if same else plan.shadow)
    if job.scorer is not None:
        return Chosen(_begun_bundled(served, job, plan))
    if plan.bundled is None:
        raise _refusal(served, plan.candidates[0])
    try:
        return Chosen(served.resolve_scorer(job.policy, plan.bundled), plan.shadow)
    except served.refusal:
        if not plan.candidates:
            raise
        raise _refusal(served, plan.candidates[0]) from None  # the runtime has none of this name


def _begun_bundled(served: Served, job: Job, plan: Plan) -> ScorerPin:
    """The runtime's own scorer that the job began with. Raises NotAtHand where it has another or none."""
    pin = None
    if plan.bundled is not None:
        with suppress(served.refusal):
            pin = served.resolve_scorer(job.policy, plan.bundled)
    if pin is None or (pin.label, pin.sha256) != (plan.bundled, plan.sha256):
        raise NotAtHand(
            f"The job began with the scorer {job.scorer}, and no worker that took it again could load that "
            "very file. Submit it again to run it with the scorer that serves now."
        )
    return pin


def prefetch(process: WorkerProcess, served: Served) -> None:
    """Loads what serves now, before a job asks for it."""
    wanted = process.transaction(lambda session: rollout.wanted(session, process.models))
    for version in wanted:
        try:
            take(process, served, version, None)
        except Unreadable:
            continue  # noted; jobs will see for themselves


def take(
    process: WorkerProcess, served: Served, version: ScorerVersion, job: Job | None, *, insist: bool = False
) -> ScorerPin:
    """A version from the worker's shelf; that it cannot be loaded is noted. Raises Unreadable."""
    try:
        return process.shelf.take(version, served.read_scorer, insist=insist)
    except Unreadable as error:
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
    said = f"The worker cannot load the scorer {registry.label(version)}. Try again later, or with another."
    return served.refusal("scorer_unreadable", said)
