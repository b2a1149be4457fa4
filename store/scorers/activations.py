"""Activations: which version of a scorer serves a scope, changed, rolled back and listed.

Which version a job runs with follows from them in `store.scorers.serving`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from store import audit
from store.errors import Conflict
from store.ids import new_id
from store.scorers import registry, serving
from store.scorers.registry import USABLE, VersionState
from store.scorers.serving import GLOBAL, Alias, NotUsable
from store.tables.scorers import Activation, ScorerVersion

_LOCK = 7_041_966_317  # any fixed number: an advisory lock on changes of activations


class NoEarlierVersion(Conflict):
    """The scope has no earlier version to roll back to."""

    code = "no_earlier_version"


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
    past = serving.past_stables(session, name, scope)
    now = next((row.version_id for row, _ in past if row.ended_at is None), None)
    for row, version in serving.earlier(past, skip={now}):
        back = f"rolled back ({reason})"
        end(session, name, scope, Alias.STABLE, actor, reason=back, bad=True)
        return activate(session, version, scope, actor, bounds=row.bounds, reason=back)
    raise NoEarlierVersion(
        f"The scope {scope} has no earlier version of {name}. End the activation instead: a wider scope's "
        "version then serves it, or the one bundled with the runtime."
    )


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
