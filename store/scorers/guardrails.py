"""Guardrails: a version that crosses its bounds is taken out of service automatically.

A canary is ended; a stable version is rolled back or, if there is no earlier version, reported once. Only
bills in the activation's scope since its start count.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import ColumnElement, Select, exists, func, select
from sqlalchemy.orm import Session

from store import audit, log, outbox
from store.scorers import activations, registry
from store.scorers.activations import Alias
from store.scorers.outcomes import AGREED, ANSWERS, MADE, ended_as
from store.tables.audit import AuditEntry
from store.tables.billing import Bill
from store.tables.job_states import State
from store.tables.jobs import Job
from store.tables.scorers import Activation, ScorerVersion, ShadowRun
from store.tables.tenants import ApiKey
from store.tenants import DEFAULT_TENANT

CROSSED = "scorer.bound_crossed"  # audit entry with the figures; at most one per activation

_log = log.get("store.scorers.guardrails")


# Failures that a scorer may have caused. A document that is too long, say, is not among them: a tenant that
# submits many of these must not end what serves other tenants.
SCORER_FAULTS = ("internal_error", "worker_lost", "scorer_unreadable")


class Bounds(BaseModel):
    """The bounds of an activation; without a rate or share there are none."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    max_failure_rate: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Failed jobs among those that failed or succeeded; a higher rate ends the activation.",
        examples=[0.05],
    )
    min_agreement: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the answers of shadow runs that are identical, character for character, to "
        "those of the stable version; a lower share ends the activation.",
        examples=[0.9],
    )
    min_jobs: int = Field(20, ge=1, le=1_000_000, description="Jobs, or shadow runs, before a bound applies.")


@dataclass(frozen=True)
class Breach:
    """A bound that was crossed, with the figures."""

    bound: str  # max_failure_rate or min_agreement
    limit: float
    value: float
    part: int  # failed jobs, or answers that agreed
    whole: int  # jobs that failed or succeeded, or answers
    runs: int  # jobs, or shadow runs

    @property
    def reason(self) -> str:
        """The breach in words."""
        shares = f"{self.value:.2%}"
        if self.bound == "max_failure_rate":
            return f"{self.part} of {self.whole} jobs failed: {shares}, above the bound of {self.limit:.2%}"
        return (
            f"{self.part} of {self.whole} answers in {self.runs} shadow runs agreed: {shares}, below the "
            f"bound of {self.limit:.2%}"
        )


def sweep(session: Session) -> int:
    """Ends or rolls back the activations that crossed their bounds; returns how many.

    Several reapers may sweep at once: each breach is handled, and reported, by one of them.
    """
    acted = 0
    for activation in session.scalars(_watched()).all():
        breach = breach_of(session, activation)
        if breach is None:
            continue
        activations.lock_activations(session)
        # While waiting for the lock it may have ended, or have been reported.
        again = _watched().where(Activation.id == activation.id)
        still = session.scalars(again, execution_options={"populate_existing": True}).one_or_none()
        if still is not None:
            _act(session, still, breach)
            acted += 1
    return acted


def _watched() -> Select[Activation]:
    """Open activations with bounds and no reported breach."""
    label = ScorerVersion.name + "@" + ScorerVersion.version
    reported = exists().where(
        AuditEntry.subject == label,
        AuditEntry.action == CROSSED,
        AuditEntry.detail["activation"].astext == Activation.id,
    )
    return (
        select(Activation)
        .join(ScorerVersion, ScorerVersion.id == Activation.version_id)
        .where(Activation.ended_at.is_(None), Activation.bounds != {}, ~reported)
        .order_by(Activation.number)
    )


def breach_of(session: Session, activation: Activation) -> Breach | None:
    """The bound that an activation has crossed, failures first; None without a breach, or too early."""
    try:
        given = {name: value for name, value in activation.bounds.items() if value is not None}
        bounds = Bounds.model_validate(given)
    except ValidationError as error:
        _log.error("bounds_not_valid", activation=activation.id, error=str(error))
        return None
    if bounds.max_failure_rate is not None:
        failed, jobs = _failures(session, activation)
        if jobs >= bounds.min_jobs and failed / jobs > bounds.max_failure_rate:
            return Breach("max_failure_rate", bounds.max_failure_rate, failed / jobs, failed, jobs, jobs)
    if bounds.min_agreement is not None:
        agreed, answers, runs = _agreement(session, activation)
        if runs >= bounds.min_jobs and answers and agreed / answers < bounds.min_agreement:
            return Breach("min_agreement", bounds.min_agreement, agreed / answers, agreed, answers, runs)
    return None


def _failures(session: Session, activation: Activation) -> tuple[int, int]:
    """The number of failures a scorer may have caused, and of all jobs that failed or succeeded."""
    ours = ended_as(State.FAILED) & (Job.error_code.is_(None) | Job.error_code.in_(SCORER_FAULTS))
    label = registry.label(registry.by_id(session, activation.version_id))
    statement = (
        select(func.count().filter(ours), func.count())
        .select_from(Bill)
        .outerjoin(Job, Job.id == Bill.job_id)
        .where(
            Bill.scorer == label,
            Bill.booked_at >= activation.activated_at,
            ended_as(State.FAILED, State.SUCCEEDED),
            *_in_scope(activation.scope, Bill),
        )
    )
    failed, jobs = session.execute(statement).one()
    return failed, jobs


def _agreement(session: Session, activation: Activation) -> tuple[int, int, int]:
    """The numbers of answers that agreed, of all answers, and of shadow runs made."""
    statement = (
        select(AGREED, ANSWERS, func.count().filter(MADE))
        .select_from(ShadowRun)
        .join(Job, Job.id == ShadowRun.job_id)
        .where(
            ShadowRun.version_id == activation.version_id,
            ShadowRun.created_at >= activation.activated_at,
            *_in_scope(activation.scope, Job),
        )
    )
    agreed, answers, runs = session.execute(statement).one()
    return int(agreed), int(answers), runs


def _in_scope(scope: str, row: type[Bill] | type[Job]) -> list[ColumnElement[bool]]:
    """Conditions for a bill or job to be in a scope."""
    kind, _, name = scope.partition(":")
    columns: dict[str, ColumnElement[Any]] = {
        "tenant": row.tenant_id.expression,
        "model": row.model.expression,
        "schedule": row.tags["schedule_id"].astext,
    }
    return [columns[kind] == name] if kind in columns else []


def _act(session: Session, activation: Activation, breach: Breach) -> None:
    """Takes an activation out of service if possible, and reports it. The caller holds the lock."""
    name, scope, alias = activation.name, activation.scope, Alias(activation.alias)
    label = registry.label(registry.by_id(session, activation.version_id))
    back_to = None
    if alias == Alias.CANARY:
        activations.end(session, name, scope, alias, audit.SYSTEM, reason=breach.reason)
        action = "canary_ended"
    else:
        try:
            # If there is no earlier version, the scope's canary must stay as it was.
            with session.begin_nested():
                made = activations.rollback(session, name, scope, audit.SYSTEM, reason=breach.reason)
            back_to = registry.label(registry.by_id(session, made.version_id))
            action = "rolled_back"
        except activations.NoEarlierVersion:
            action = "bound_crossed"
    figures = {"scope": scope, "alias": alias.value, "back_to": back_to, **asdict(breach)}
    audit.note(
        session,
        audit.SYSTEM,
        CROSSED,
        label,
        activation=activation.id,
        done=action,
        reason=breach.reason,
        **figures,
    )
    payload = {"scorer": label, "activation": activation.id, "reason": breach.reason, **figures}
    outbox.add_event(session, _tenant_of(session, activation), None, f"scorer.{action}", payload)
    _log.warning("bound_crossed", scorer=label, scope=scope, done=action, reason=breach.reason)


def _tenant_of(session: Session, activation: Activation) -> str:
    """The tenant to notify: the one whose key activated the version."""
    found = session.scalar(select(ApiKey.tenant_id).where(ApiKey.id == activation.activated_by))
    return found or DEFAULT_TENANT
