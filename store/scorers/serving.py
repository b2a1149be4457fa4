"""Which scorer serves a job that a worker has claimed: the one place where that is planned.

Scopes, the most specific first: schedule:<id>, tenant:<id>, model:<name>, global. A scope's `stable` version
serves its jobs; its `canary`, if it has one, serves a share of them, chosen by a hash of the job's id, so
that a job that is claimed again runs with the same version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from store.errors import Conflict, NotFound
from store.scorers import registry
from store.scorers.registry import USABLE
from store.tables.jobs import Job
from store.tables.scorers import Activation, ScorerVersion

GLOBAL = "global"

Past = Sequence[tuple[Activation, ScorerVersion]]  # newest first


class Alias(StrEnum):
    """What an activation is to its scope."""

    STABLE = "stable"
    CANARY = "canary"


class NotUsable(Conflict):
    """The version has not been verified, or was rejected."""

    code = "scorer_not_verified"


@dataclass(frozen=True)
class Plan:
    """What a worker tries, in this order; the first that can be loaded serves the job.

    Attributes:
        candidates: versions of the registry: the one that serves, then those that were stable before it.
        bundled: the scorer, `name` or `name@version`, to ask the runtime for when none of them can be loaded;
            None where only a candidate will do.
        sha256: what the bundled scorer must hash to; None for any.
        exact: the job began with this very version or names it, so nothing else may serve it.
        shadow: a canary that reads the same document after the answer; its answers are only compared.
    """

    candidates: tuple[ScorerVersion, ...] = ()
    bundled: str | None = None
    sha256: str | None = None
    exact: bool = False
    shadow: ScorerVersion | None = None


def plan(session: Session, job: Job, scorer: str) -> Plan:
    """The plan for a job whose policy uses `scorer` where the job names none. Raises NotUsable."""
    if job.scorer is not None:
        begun = _begun(session, job.scorer, job.scorer_sha256)
        return Plan((begun,) if begun else (), None if begun else job.scorer, job.scorer_sha256, exact=True)
    asked = job.scorer_requested or scorer
    name, version = registry.split(asked)
    if version is not None:
        row = named(session, name, version)
        return Plan((row,) if row else (), None if row else asked, exact=True)
    return _by_name(session, job, name)


def _begun(session: Session, label: str, sha256: str | None) -> ScorerVersion | None:
    """The version that a job began with; None where it is not of the registry, so one of the runtime's."""
    name, version = registry.split(label)
    same = (ScorerVersion.name == name, ScorerVersion.version == version, ScorerVersion.sha256 == sha256)
    return session.scalars(select(ScorerVersion).where(*same, ScorerVersion.state.in_(USABLE))).one_or_none()


def named(session: Session, name: str, version: str) -> ScorerVersion | None:
    """A version that a job names; None where it is not of the registry, so perhaps one of the runtime's.

    Raises NotUsable.
    """
    try:
        row = registry.get(session, name, version)
    except NotFound:
        return None
    if row.state not in USABLE:
        raise NotUsable(f"{registry.label(row)} is {row.state}; jobs can only run with verified versions.")
    return row


def _by_name(session: Session, job: Job, name: str) -> Plan:
    stable, canary = open_in(session, name, scopes_of(job))
    past = past_stables(session, name, stable.scope) if stable else []
    past = [(row, version) for row, version in past if stable and row.number <= stable.number]
    tried = [version for row, version in past if stable and row.id == stable.id]
    shadow = None
    if canary is not None:
        version = registry.by_id(session, canary.version_id)
        if _percentile(job.id, canary.id) < canary.percent:
            tried = [version, *tried]
        elif _percentile(job.id, "shadow " + canary.id) < canary.shadow_percent:
            shadow = version
    tried += [version for _, version in earlier(past, skip={version.id for version in tried})]
    return Plan(tuple(dict.fromkeys(tried)), bundled=name, shadow=shadow)


def _percentile(job_id: str, salt: str) -> int:
    """0 to 99, always the same for a job and a canary."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{job_id}".encode()).digest()[:4], "big") % 100


def scopes_of(job: Job) -> list[str]:
    """The scopes a job is in, the most specific first."""
    schedule = job.tags.get("schedule_id")  # set by the scheduler
    own = [f"tenant:{job.tenant_id}", f"model:{job.model}", GLOBAL]
    return [f"schedule:{schedule}", *own] if schedule else own


def open_in(session: Session, name: str, scopes: list[str]) -> tuple[Activation | None, Activation | None]:
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


def past_stables(session: Session, name: str, scope: str) -> Past:
    """All stable activations of a scope with their versions, the newest first."""
    here = (Activation.name == name, Activation.scope == scope, Activation.alias == Alias.STABLE)
    query = select(Activation, ScorerVersion).join(ScorerVersion, ScorerVersion.id == Activation.version_id)
    # This runs at every claim, and these two may be megabytes.
    query = query.options(defer(ScorerVersion.manifest), defer(ScorerVersion.evaluation))
    found = session.execute(query.where(*here).order_by(Activation.number.desc()))
    return [(row, version) for row, version in found]


def earlier(past: Past, skip: Set[str | None]) -> Past:
    """Usable versions to go back to, each once; `skip` are ids.

    A version whose latest activation was rolled back is left out, so that going back again goes further back.
    """
    found: dict[str, tuple[Activation, ScorerVersion]] = {}
    for row, version in past:
        found.setdefault(version.id, (row, version))
    return [
        (row, version)
        for row, version in found.values()
        if not row.rolled_back and version.id not in skip and version.state in USABLE
    ]
