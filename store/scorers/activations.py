"""Which version of a scorer a job runs with: activations by scope, canaries, and rollback.

Scopes, the most specific first: schedule:<id>, tenant:<id>, model:<name>, global. A scope's `stable` version
serves its jobs; its `canary`, if it has one, serves a share of them, chosen by a hash of the job's id, so
that a job gets the same version however often it is claimed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from store import audit
from store.errors import Conflict, NotFound
from store.ids import new_id
from store.scorers import registry
from store.scorers.registry import USABLE, VersionState
from store.tables.jobs import Job
from store.tables.scorers import Activation, ScorerVersion

GLOBAL = "global"
_LOCK = 7_041_966_317  # any fixed number: an advisory lock on changes of activations


class Alias(StrEnum):
    STABLE = "stable"
    CANARY = "canary"


class NotUsable(Conflict):
    """The version has not been verified, or was rejected."""

    code = "scorer_not_verified"


class NoEarlierVersion(Conflict):
    """The scope has no earlier version to roll back to."""

    code = "no_earlier_version"


@dataclass(frozen=True)
class Choice:
    """What a job should run with.

    Attributes:
        version: None for the scorer bundled with the runtime.
        shadow: a canary that should read the same document, only to compare its answers.
    """

    version: ScorerVersion | None
    activation: Activation | None = None
    shadow: ScorerVersion | None = None


def scopes_of(job: Job) -> list[str]:
    """The scopes of a job, the most specific first."""
    schedule = job.tags.get("schedule_id")  # set by the scheduler
    own = [f"tenant:{job.tenant_id}", f"model:{job.model}", GLOBAL]
    return [f"schedule:{schedule}", *own] if schedule else own


def choose(session: Session, job: Job, scorer: str) -> Choice:
    """The version for a job, whose request or policy names the scorer. Raises NotUsable.

    A job that was claimed before keeps its version instead, see `pinned`.
    """
    name, version = registry.split(scorer)
    if version is not None:
        return Choice(usable(session, name, version))
    stable, canary = open_of(session, name, scopes_of(job))
    if canary is not None and _percentile(job.id, canary.id) < canary.percent:
        return Choice(registry.by_id(session, canary.version_id), canary)
    version_of_stable = registry.by_id(session, stable.version_id) if stable else None
    shadow = None
    if canary is not None and _percentile(job.id, "shadow " + canary.id) < canary.shadow_percent:
        shadow = registry.by_id(session, canary.version_id)
    return Choice(version_of_stable, stable, shadow)


def usable(session: Session, name: str, version: str) -> ScorerVersion | None:
    """A version that jobs may run with; None if the registry does not have it.

    Raises NotUsable.
    """
    try:
        row = registry.get(session, name, version)
    except NotFound:
        return None  # perhaps bundled with the runtime
    if row.state not in USABLE:
        raise NotUsable(f"{registry.label(row)} is {row.state}; jobs can only run with verified versions.")
    return row


def pinned(session: Session, label: str, sha256: str | None) -> ScorerVersion | None:
    """The version that a job started with; None if the registry does not have it with this hash."""
    name, _, version = label.partition("@")
    same = (ScorerVersion.name == name, ScorerVersion.version == version, ScorerVersion.sha256 == sha256)
    return session.scalars(select(ScorerVersion).where(*same, ScorerVersion.state.in_(USABLE))).one_or_none()


def _percentile(job_id: str, salt: str) -> int:
    """0 to 99, always the same for a job and a salt."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{job_id}".encode()).digest()[:4], "big") % 100


def open_of(session: Session, name: str, scopes: list[str]) -> tuple[Activation | None, Activation | None]:
    """The open stable and canary activations that apply to the first of these scopes that has either.

    A scope with only a canary inherits the stable version of a wider scope, but never a wider scope's canary.
    """
    query = select(Activation).where(
        Activation.name == name, Activation.scope.in_(scopes), Activation.ended_at.is_(None)
    )
    found = {(row.scope, row.alias): row for row in session.scalars(query)}
    stable = canary = None
    for scope in scopes:
        if canary is None and stable is None:
            canary = found.get((scope, Alias.CANARY))
        if stable is None:
            stable = found.get((scope, Alias.STABLE))
    return stable, canary


def lock_activations(session: Session) -> None:
    """Locks activations against concurrent changes until the transaction ends; reentrant."""
    session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def activate(
    session: Session,
    row: ScorerVersion,
    scope: str,
    actor: str,
    *,
    alias: Alias = Alias.STABLE,
    percent: int = 100,
    shadow_percent: int = 0,
    bounds: dict[str, Any] | None = None,
    reason: str = "activated",
) -> Activation:
    """Makes the version serve the scope under the alias from now on. Raises NotUsable."""
    if row.state not in USABLE:
        raise NotUsable(f"{registry.label(row)} is {row.state}; only verified versions can be activated.")
    lock_activations(session)
    end(session, row.name, scope, alias, actor, reason=f"{reason}: {registry.label(row)}")
    made = Activation(
        id=new_id("act"),
        name=row.name,
        scope=scope,
        alias=alias,
        version_id=row.id,
        percent=percent,
        shadow_percent=shadow_percent,
        bounds=bounds or {},
        activated_by=actor,
    )
    session.add(made)
    session.flush()
    _update_states(session, row.name)
    audit.note(
        session,
        actor,
        "scorer.activated",
        registry.label(row),
        scope=scope,
        alias=alias,
        percent=percent,
        shadow_percent=shadow_percent,
        reason=reason,
    )
    return made


def end(
    session: Session, name: str, scope: str, alias: Alias, actor: str, *, reason: str, bad: bool = False
) -> Activation | None:
    """Ends and returns the open activation of a scope and alias, if any. Rollback skips `bad` versions."""
    lock_activations(session)
    statement = (
        update(Activation)
        .where(
            Activation.name == name,
            Activation.scope == scope,
            Activation.alias == alias,
            Activation.ended_at.is_(None),
        )
        .values(rolled_back=bad, ended_at=func.clock_timestamp(), ended_by=actor, ended_reason=reason)
        .returning(Activation)
    )
    ended = session.scalars(statement).one_or_none()
    if ended is not None:
        _update_states(session, name)
        version = registry.by_id(session, ended.version_id)
        audit.note(
            session, actor, "scorer.ended", registry.label(version), scope=scope, alias=alias, reason=reason
        )
    return ended


def rollback(session: Session, name: str, scope: str, actor: str, *, reason: str) -> Activation:
    """Reactivates the previous stable version of a scope and ends its canary. Raises NoEarlierVersion."""
    lock_activations(session)
    end(session, name, scope, Alias.CANARY, actor, reason=reason)
    past = stables(session, name, scope)
    serving = next((row for row in past if row.ended_at is None), None)
    left = rolled_back(past)
    if serving is not None:
        left.add(serving.version_id)
    for row, version in usable_of(session, past, left):
        back = f"rolled back ({reason})"
        end(session, name, scope, Alias.STABLE, actor, reason=back, bad=True)
        return activate(session, version, scope, actor, bounds=row.bounds, reason=back)
    raise NoEarlierVersion(
        f"The scope {scope} has no earlier version of {name}. End the activation instead: a wider scope's "
        "version then serves it, or the one bundled with the runtime."
    )


def stables(session: Session, name: str, scope: str) -> Sequence[Activation]:
    """All stable activations of a scope, the newest first."""
    here = (Activation.name == name, Activation.scope == scope, Activation.alias == Alias.STABLE)
    return session.scalars(select(Activation).where(*here).order_by(Activation.number.desc())).all()


def usable_of(
    session: Session, past: Sequence[Activation], left: set[str]
) -> list[tuple[Activation, ScorerVersion]]:
    """The usable versions of these activations, each once, except the ids in `left`."""
    found: dict[str, tuple[Activation, ScorerVersion]] = {}
    for row in past:
        version = registry.by_id(session, row.version_id)
        if version.id not in left and version.state in USABLE:
            found.setdefault(version.id, (row, version))
    return list(found.values())


def rolled_back(past: Sequence[Activation]) -> set[str]:
    """The versions whose latest activation was rolled back; `past` has the newest first.

    Rollback skips them, so that it only goes further back.
    """
    latest = {row.version_id: row for row in reversed(past)}
    return {version_id for version_id, row in latest.items() if row.rolled_back}


def history(
    session: Session,
    *,
    name: str | None = None,
    seen_by: str | None = None,
    still_open: bool | None = None,
    before: int | None = None,
    limit: int | None = None,
) -> list[Activation]:
    """Activations, the newest first; `before` is the number of the previous page's last one.

    `seen_by` is a tenant, which sees those for all tenants and its own; None for everything.
    """
    query = select(Activation).order_by(Activation.number.desc()).limit(limit)
    if name is not None:
        query = query.where(Activation.name == name)
    if seen_by is not None:
        query = query.where(
            Activation.scope.in_((GLOBAL, f"tenant:{seen_by}")) | Activation.scope.startswith("model:")
        )
    if still_open is not None:
        query = query.where(Activation.ended_at.is_(None) == still_open)
    if before is not None:
        query = query.where(Activation.number < before)
    return list(session.scalars(query))


def current(session: Session) -> list[Activation]:
    """The open activations."""
    query = select(Activation).where(Activation.ended_at.is_(None))
    return list(session.scalars(query.order_by(Activation.name, Activation.scope, Activation.alias)))


def _update_states(session: Session, name: str) -> None:
    """Updates the states of a scorer's versions: active with an open activation, otherwise retired."""
    serving = select(Activation.version_id).where(Activation.ended_at.is_(None), Activation.name == name)
    mine = (ScorerVersion.name == name, ScorerVersion.state.in_(USABLE))
    for state, chosen in (
        (VersionState.ACTIVE, ScorerVersion.id.in_(serving)),
        (
            VersionState.RETIRED,
            ScorerVersion.id.not_in(serving) & (ScorerVersion.state == VersionState.ACTIVE),
        ),
    ):
        session.execute(
            update(ScorerVersion)
            .where(*mine, chosen)
            .values(state=state)
            .execution_options(synchronize_session="fetch")
        )
