"""The scorer of a job, decided at its claim: a version of the registry, or the runtime's bundled one.

The database is asked for every job and no choice is remembered, so a swap takes effect at the next claim.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from store import log
from store.scorers import activations, fallbacks, registry, rollout
from store.scorers.activations import Choice, NotUsable
from store.tables.jobs import Job
from store.tables.scorers import ScorerVersion
from worker.engine import ScorerPin, Served
from worker.engine.process import WorkerProcess
from worker.engine.scorer_cache import ScorerUnreadable

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
    """The version that serves the job now, loaded; the one it was pinned to before, if it was.

    When what serves now cannot be loaded, the one before it in its scope serves, and so on down to the
    bundled one. A job that was pinned runs with the very same file or not at all: raises NotAtHand.

    Raises the engine's refusal: `scorer_not_used` for a policy without one, `unknown_scorer`,
    `scorer_not_verified`; `scorer_unreadable` where the job asks for exactly a version and that cannot be
    loaded.
    """
    own = served.scorer_of(job.policy)
    if own is None:
        return Chosen(served.resolve_scorer(job.policy, job.scorer_requested))
    if job.scorer is not None:
        return Chosen(_pinned(process, served, job, job.scorer))
    asked = job.scorer_requested or own
    exact = registry.split(asked)[1] is not None
    try:
        choice = process.transaction(lambda session: activations.choose(session, job, asked))
    except NotUsable as error:
        raise served.refusal(error.code, str(error)) from None
    if choice.version is None:
        return Chosen(served.resolve_scorer(job.policy, asked), choice.shadow)
    try:
        return Chosen(take(process, served, choice.version, job, insist=exact), choice.shadow)
    except ScorerUnreadable:
        if exact:
            raise _refusal(served, choice.version) from None
    return _fall_back(process, served, job, choice)


def prefetch(process: WorkerProcess, served: Served) -> None:
    """Loads what serves now, before a job asks for it."""
    wanted = process.transaction(lambda session: rollout.wanted(session, process.models))
    for version in wanted:
        try:
            take(process, served, version, None)
        except ScorerUnreadable:
            continue  # noted; jobs will see for themselves


def _fall_back(process: WorkerProcess, served: Served, job: Job, choice: Choice) -> Chosen:
    broken = choice.version
    assert broken is not None
    others = process.transaction(lambda session: fallbacks.fallbacks(session, job, broken))
    for version in others:
        try:
            pin = take(process, served, version, job)
        except ScorerUnreadable:
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
    """A version from the worker's cache; that it cannot be loaded is noted. Raises ScorerUnreadable."""
    try:
        return process.scorer_cache.get(version, served.read_scorer, ignore_backoff=insist)
    except ScorerUnreadable as error:
        if error.new:
            _note(process, version, job, str(error))
        raise


def _note(process: WorkerProcess, version: ScorerVersion, job: Job | None, error: str) -> None:
    try:
        with process.database.session() as session:
            fallbacks.note_failed(session, job, process.worker_id, version, error)
    except SQLAlchemyError as trouble:
        _log.warning("failure_not_noted", scorer=registry.label(version), error=str(trouble))


def _pinned(process: WorkerProcess, served: Served, job: Job, label: str) -> ScorerPin:
    """Of the registry or the runtime's own; a name and version of both are told apart by the hash."""
    sha256 = job.scorer_sha256
    version = process.transaction(lambda session: activations.pinned(session, label, sha256))
    if version is not None:
        try:
            return take(process, served, version, job, insist=True)
        except ScorerUnreadable as error:
            raise NotAtHand(_kept(label)) from error
    try:
        own = served.resolve_scorer(job.policy, label)
    except served.refusal as refusal:
        raise NotAtHand(_kept(label)) from refusal
    if own is None or (own.label, own.sha256) != (label, sha256):
        raise NotAtHand(_kept(label))
    return own


def _kept(label: str) -> str:
    return (
        f"The job began with the scorer {label}, and no worker that took it again could load that very file. "
        "Submit it anew to run it with what serves now."
    )


def _refusal(served: Served, version: ScorerVersion) -> Exception:
    said = f"The worker cannot load the scorer {registry.label(version)}. Try again later, or with another."
    return served.refusal("scorer_unreadable", said)
