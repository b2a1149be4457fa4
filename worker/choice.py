"""The scorer of a job, decided at its claim: a version of the registry, or the runtime's bundled one.

The database is asked for every job and no choice is remembered, so a swap takes effect at the next claim.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from store import activations, fallbacks, log, rollout, scorers
from store.activations import Choice, NotUsable
from store.models import Job
from store.scorer_tables import ScorerVersion
from worker.engine import ScorerPin, Served
from worker.process import WorkerProcess
from worker.shelf import Unreadable

_log = log.get("worker.choice")


@dataclass(frozen=True)
class Chosen:
    """What a job runs with: no scorer for a policy that takes none; a shadow reads it after the answer."""

    pin: ScorerPin | None
    shadow: ScorerVersion | None = None


def choose(process: WorkerProcess, served: Served, job: Job) -> Chosen:
    """The version that serves the job now, loaded; the one it was pinned to before, if it was.

    When that cannot be loaded, the one before it in its scope serves, and so on down to the bundled one.

    Raises the engine's refusal: `scorer_not_used` for a policy without one, `unknown_scorer`,
    `scorer_not_verified`; `scorer_unreadable` where the job asks for exactly a version and that cannot be
    loaded.
    """
    own = served.scorer_of(job.policy)
    if own is None:
        return Chosen(served.resolve_scorer(job.policy, job.scorer_requested))
    asked = job.scorer_requested or own
    exact = scorers.split(asked)[1] is not None
    try:
        choice = process.transaction(lambda session: activations.choose(session, job, asked))
    except NotUsable as error:
        raise served.refusal(error.code, str(error)) from None
    if choice.version is None:
        return Chosen(_bundled(served, job, asked), choice.shadow)
    try:
        return Chosen(take(process, served, choice.version, job, insist=exact), choice.shadow)
    except Unreadable:
        if exact:
            raise _refusal(served, choice.version) from None
    return _fall_back(process, served, job, choice)


def prefetch(process: WorkerProcess, served: Served) -> None:
    """Loads what serves now, before a job asks for it."""
    wanted = process.transaction(lambda session: rollout.wanted(session, process.models))
    for version in wanted:
        try:
            take(process, served, version, None)
        except Unreadable:
            continue  # noted; jobs will see for themselves


def _fall_back(process: WorkerProcess, served: Served, job: Job, choice: Choice) -> Chosen:
    broken = choice.version
    assert broken is not None
    others = process.transaction(lambda session: fallbacks.fallbacks(session, job, broken))
    for version in others:
        try:
            pin = take(process, served, version, job)
        except Unreadable:
            continue
        shadow = choice.shadow if choice.shadow is not None and choice.shadow.id != version.id else None
        return Chosen(pin, shadow)
    try:
        return Chosen(served.resolve_scorer(job.policy, broken.name), choice.shadow)
    except served.refusal:
        raise _refusal(served, broken) from None  # the runtime has none of this name


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
            fallbacks.note_failed(session, job, process.worker_id, version, error)
    except SQLAlchemyError as trouble:
        _log.warning("failure_not_noted", scorer=scorers.label(version), error=str(trouble))


def _bundled(served: Served, job: Job, asked: str) -> ScorerPin | None:
    """The runtime's own: that of an earlier attempt, unless the runtime has been replaced since."""
    pinned = job.scorer if job.scorer and scorers.split(job.scorer)[0] == scorers.split(asked)[0] else None
    if pinned is not None:
        try:
            return served.resolve_scorer(job.policy, pinned)
        except served.refusal:
            pass
    return served.resolve_scorer(job.policy, asked)


def _refusal(served: Served, version: ScorerVersion) -> Exception:
    said = f"The worker cannot load the scorer {scorers.label(version)}. Try again later, or with another."
    return served.refusal("scorer_unreadable", said)
