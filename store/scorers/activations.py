"""Which version of a scorer a job runs with: activations by scope, canaries, and the way back.

Scopes, the most particular first: schedule:<id>, tenant:<id>, model:<name>, global. A scope's `stable` serves
its jobs; its `canary`, if it has one, serves a share of them, chosen by a hash of the job's id, so that a job
that is claimed again runs with the same one.
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
_LOCK = 7_041_966_317  # any fixed number: activations take turns


class Alias(StrEnum):
    STABLE = "stable"
    CANARY = "canary"


class NotUsable(Conflict):
    """The version is not verified, or was rejected."""

    code = "scorer_not_verified"


class NoWayBack(Conflict):
    """The scope has no earlier version to go back to."""

    code = "no_earlier_version"


@dataclass(frozen=True)
class Choice:
    """What a job is to run with.

    Attributes:
        version: None for the scorer that is bundled with the runtime.
        shadow: a canary that is to read the same document, its answers only compared.
    """

    version: ScorerVersion | None
    activation: Activation | None = None
    shadow: ScorerVersion | None = None


def scopes_of(job: Job) -> list[str]:
    """The scopes a job is in, the most particular first."""
    schedule = job.tags.get("schedule_id")  # set by the scheduler
    own = [f"tenant:{job.tenant_id}", f"model:{job.model}", GLOBAL]
    return [f"schedule:{schedule}", *own] if schedule else own


def choose(session: Session, job: Job, scorer: str) -> Choice:
    """The version for a job that names a scorer, or that a policy does. Raises NotUsable.

    Not for a job that was claimed before: that keeps its version, see `pinned`.
    """
    name, version = registry.split(scorer)
    if version is not None:
        return Choice(usable(session, name, version))
    stable, canary = open_of(session, name, scopes_of(job))
    if canary is not None and _drawn(job.id, canary.id) < canary.percent:
        return Choice(registry.by_id(session, canary.version_id), canary)
    version_of_stable = registry.by_id(session, stable.version_id) if stable else None
    shadow = None
    if canary is not None and _drawn(job.id, "shadow " + canary.id) < canary.shadow_percent:
        shadow = registry.by_id(session, canary.version_id)
    return Choice(version_of_stable, stable, shadow)


def usable(session: Session, name: str, version: str) -> ScorerVersion | None:
    """A version that jobs may run with; None where the registry has none of this name and version.

    Raises NotUsable.
    """
    try:
        row = registry.get(session, name, version)
    except NotFound:
        return None  # perhaps one of the runtime's own
    if row.state not in USABLE:
        raise NotUsable(f"{registry.label(row)} is {row.state}; jobs run with verified versions only.")
    return row


def pinned(session: Session, label: str, sha256: str | None) -> ScorerVersion | None:
    """The version that a job began with; None where the registry has none of this `name@version` and hash."""
    name, _, version = label.partition("@")
    same = (ScorerVersion.name == name, ScorerVersion.version == version, ScorerVersion.sha256 == sha256)
    return session.scalars(select(ScorerVersion).where(*same, ScorerVersion.state.in_(USABLE))).one_or_none()


def _drawn(job_id: str, salt: str) -> int:
    """0 to 99, the same for a job and a canary whenever it is asked."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{job_id}".encode()).digest()[:4], "big") % 100


def open_of(session: Session, name: str, scopes: list[str]) -> tuple[Activation | None, Activation | None]:
    """Stable and canary of the first scope that has either.

    A scope with a canary alone keeps the stable of a wider one; a wider scope's canary is not for it.
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


def take_turns(session: Session) -> None:
    """Until the transaction ends, nobody else changes what serves. May be taken again by the same one."""
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
    """From now on the version serves the scope under the alias. Raises NotUsable."""
    if row.state not in USABLE:
        raise NotUsable(f"{registry.label(row)} is {row.state}; only verified versions can serve.")
    take_turns(session)
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
    _settle(session, row.name)
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
    """Ends what serves a scope under an alias, if anything does → it. A `bad` one is not come back to."""
    take_turns(session)
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
        _settle(session, name)
        version = registry.by_id(session, ended.version_id)
        audit.note(
            session, actor, "scorer.ended", registry.label(version), scope=scope, alias=alias, reason=reason
        )
    return ended


def rollback(session: Session, name: str, scope: str, actor: str, *, reason: str) -> Activation:
    """Goes back to the version that was stable before in this scope; a canary is ended. Raises NoWayBack."""
    take_turns(session)
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
    raise NoWayBack(
        f"{name} had no other version in the scope {scope} before. Deactivate it there instead: a wider "
        "scope's version serves then, or the one bundled with the runtime."
    )


def stables(session: Session, name: str, scope: str) -> Sequence[Activation]:
    """All activations as stable in a scope, the newest first."""
    here = (Activation.name == name, Activation.scope == scope, Activation.alias == Alias.STABLE)
    return session.scalars(select(Activation).where(*here).order_by(Activation.number.desc())).all()


def usable_of(
    session: Session, past: Sequence[Activation], left: set[str]
) -> list[tuple[Activation, ScorerVersion]]:
    """The versions of these activations that jobs may run with, those left out by id apart; each once."""
    found: dict[str, tuple[Activation, ScorerVersion]] = {}
    for row in past:
        version = registry.by_id(session, row.version_id)
        if version.id not in left and version.state in USABLE:
            found.setdefault(version.id, (row, version))
    return list(found.values())


def rolled_back(past: Sequence[Activation]) -> set[str]:
    """The versions whose latest activation, of these with the newest first, was rolled back.

    They are not come back to: the way leads to ever earlier ones.
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
    """Activations, the newest first; `before` is the number of the last one of the page before.

    `seen_by` is a tenant, who is shown those for everybody and its own; None for all.
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
    """What serves now."""
    query = select(Activation).where(Activation.ended_at.is_(None))
    return list(session.scalars(query.order_by(Activation.name, Activation.scope, Activation.alias)))


def _settle(session: Session, name: str) -> None:
    """Puts the states of a scorer's versions right: active with an open activation, else retired."""
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
