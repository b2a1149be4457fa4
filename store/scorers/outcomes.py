"""Outcomes of a scorer's versions: how jobs ended, tokens kept, cost, savings, and agreement of shadow runs.

All figures come from bills and shadow runs. A job's end counts once, for the version of its last attempt;
device time and money count for every attempt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, func, select
from sqlalchemy.orm import Session

from store.errors import NotFound
from store.scorers import registry
from store.scorers.shadow_runs import ShadowOutcome
from store.tables.billing import Bill
from store.tables.job_states import State
from store.tables.jobs import Job
from store.tables.scorers import ScorerVersion, ShadowRun

Z = 1.959964  # for a 95 % interval

_ENDS = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED)
ENDED = Bill.jobs > 0
# For an attempt that was lost or released, the job says how it ended.
_END = case((Bill.outcome.in_(("lost", "released")), Job.state), else_=Bill.outcome)
# A shadow run that broke agrees with nothing and counts as at least one answer; one that was not made does
# not count.
MADE = ShadowRun.outcome != ShadowOutcome.NOT_MADE
_ANSWERED = ShadowRun.outcome == ShadowOutcome.ANSWERED
ANSWERS = func.coalesce(
    func.sum(case((_ANSWERED, ShadowRun.answers), else_=func.greatest(ShadowRun.answers, 1))).filter(MADE), 0
)
AGREED = func.coalesce(func.sum(ShadowRun.agreed).filter(_ANSWERED), 0)


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval (Wilson 1927), assuming independent trials."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Money:
    """Amounts in one currency; None if no bill has the figure."""

    currency: str
    cost: Decimal | None
    saving_allocated: Decimal | None
    saving_realised: Decimal | None


@dataclass(frozen=True)
class Ends:
    """Jobs by how they ended."""

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0


@dataclass(frozen=True)
class Shadows:
    """Shadow runs of the version."""

    runs: int = 0
    failed: int = 0  # among the runs
    not_made: int = 0  # not among the runs
    answers: int = 0
    agreed: int = 0
    agreement: Rate | None = None


@dataclass(frozen=True)
class VersionOutcome:
    """The outcome of a version in an interval.

    Attributes:
        state, sha256: None for a version that is not in the registry, such as a bundled one.
        failure_rate: among jobs that succeeded or failed; None without any.
        kept: share of the documents' tokens kept at the end, over jobs that succeeded.
        score_share: share of the device time spent in the scorer.
        scorer_quality: mean over ended jobs of the scorer's evaluated quality.
        evaluation: output of `namm evaluate` for the version, if attached.
    """

    scorer: str
    version: str
    state: str | None
    sha256: str | None
    jobs: Ends
    failure_rate: Rate | None
    kept: float | None
    device_seconds: Decimal
    score_seconds: Decimal
    score_share: float | None
    scorer_quality: float | None
    shadow: Shadows
    evaluation: dict[str, Any] | None
    money: list[Money] = field(default_factory=list)


def wilson(successes: int, trials: int) -> Rate | None:
    """A share with its 95 % interval; None without trials."""
    if trials == 0:
        return None
    share = successes / trials
    scale = 1 + Z**2 / trials
    middle = (share + Z**2 / (2 * trials)) / scale
    half = Z * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2)) / scale
    # Rounding must not put the share itself outside.
    return Rate(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def ended_as(*states: State) -> ColumnElement[bool]:
    """Whether a bill ended its job, and in one of these states. The query has an outer join of Job."""
    return and_(ENDED, _END.in_(states))


def of_scorer(
    session: Session, name: str, start: datetime, end: datetime, *, tenant_id: str | None
) -> list[VersionOutcome]:
    """Every version of a scorer: those of the registry, the newest first, then others.

    `tenant_id` is whose bills and shadow runs count; None for all tenants. Raises NotFound for a scorer that
    is neither in the registry nor used by a job in the interval.
    """
    mine = Bill.scorer.startswith(f"{name}@", autoescape=True)
    found = _gather(session, name, mine, start, end, tenant_id)
    if not found:
        raise NotFound(
            f"The registry has no scorer '{name}', and no job that ended in this interval used it."
        )
    return list(found.values())


def compare(
    session: Session,
    name: str,
    versions: Sequence[str],
    start: datetime,
    end: datetime,
    *,
    tenant_id: str | None,
) -> list[VersionOutcome]:
    """Some versions of a scorer side by side, in the given order.

    Raises NotFound for a version that is neither in the registry nor used by a job in the interval.
    """
    asked = list(dict.fromkeys(versions))
    mine = Bill.scorer.in_([f"{name}@{version}" for version in asked])
    found = _gather(session, name, mine, start, end, tenant_id)
    for version in asked:
        if version not in found:
            raise NotFound(
                f"The registry has no scorer {name}@{version}, and no job that ended in this interval used "
                "it."
            )
    return [found[version] for version in asked]


def _gather(
    session: Session,
    name: str,
    mine: ColumnElement[bool],
    start: datetime,
    end: datetime,
    tenant_id: str | None,
) -> dict[str, VersionOutcome]:
    """Version → outcome."""
    rows: dict[str, list[Row[Any]]] = {}
    for row in _bills(session, mine, start, end, tenant_id):
        rows.setdefault(registry.split(row.scorer)[1] or "", []).append(row)
    shadows = _shadows(session, name, start, end, tenant_id)
    known = {row.version: row for row in registry.versions(session, name=name)}
    order = [*known, *sorted(rows.keys() - known.keys())]
    return {
        version: _outcome(
            name, version, known.get(version), rows.get(version, []), shadows.get(version, Shadows())
        )
        for version in order
    }


def _bills(
    session: Session, mine: ColumnElement[bool], start: datetime, end: datetime, tenant_id: str | None
) -> Sequence[Any]:
    good = and_(ENDED, Bill.outcome == State.SUCCEEDED)
    statement = (
        select(
            Bill.scorer,
            Bill.currency,
            *(func.count().filter(ended_as(state)).label(state.value) for state in _ENDS),
            func.sum(case((good, Bill.tokens_kept), else_=0)).label("kept"),
            func.sum(case((good, Bill.tokens_document), else_=0)).label("read"),
            func.sum(Bill.device_seconds).label("device_seconds"),
            func.sum(Bill.score_seconds).label("score_seconds"),
            func.sum(Bill.cost).label("cost"),
            func.sum(Bill.allocated_saving).label("saving_allocated"),
            func.sum(Bill.realised_saving).label("saving_realised"),
            func.sum(case((ENDED, Bill.scorer_quality))).label("quality"),
            func.count(case((ENDED, Bill.scorer_quality))).label("with_quality"),
        )
        .outerjoin(Job, Job.id == Bill.job_id)
        .where(mine, Bill.booked_at >= start, Bill.booked_at < end)
        .group_by(Bill.scorer, Bill.currency)
        .order_by(Bill.currency)
    )
    if tenant_id is not None:
        statement = statement.where(Bill.tenant_id == tenant_id)
    return session.execute(statement).all()


def _shadows(
    session: Session, name: str, start: datetime, end: datetime, tenant_id: str | None
) -> dict[str, Shadows]:
    statement = (
        select(
            ScorerVersion.version,
            func.count().filter(MADE),
            func.count().filter(ShadowRun.outcome == ShadowOutcome.BROKE),
            func.count().filter(~MADE),
            ANSWERS,
            AGREED,
        )
        .join(ShadowRun, ShadowRun.version_id == ScorerVersion.id)
        .where(ScorerVersion.name == name, ShadowRun.created_at >= start, ShadowRun.created_at < end)
        .group_by(ScorerVersion.version)
    )
    if tenant_id is not None:
        statement = statement.where(ShadowRun.tenant_id == tenant_id)
    found = {}
    for version, runs, failed, not_made, answers, agreed in session.execute(statement):
        answers, agreed = int(answers), int(agreed)
        found[version] = Shadows(runs, failed, not_made, answers, agreed, wilson(agreed, answers))
    return found


def _outcome(
    name: str, version: str, row: ScorerVersion | None, bills: Sequence[Row[Any]], shadow: Shadows
) -> VersionOutcome:
    def total(column: str) -> Decimal:
        return sum((value for value in _column(bills, column)), Decimal(0))

    ends = Ends(**{state.value: int(total(state.value)) for state in _ENDS})
    seconds, scoring = total("device_seconds"), total("score_seconds")
    return VersionOutcome(
        scorer=f"{name}@{version}",
        version=version,
        state=row.state if row else None,
        sha256=row.sha256 if row else None,
        jobs=ends,
        failure_rate=wilson(ends.failed, ends.succeeded + ends.failed),
        kept=_share(total("kept"), total("read")),
        device_seconds=seconds,
        score_seconds=scoring,
        score_share=_share(scoring, seconds),
        scorer_quality=_share(total("quality"), total("with_quality")),
        shadow=shadow,
        evaluation=row.evaluation if row else None,
        money=[
            Money(bill.currency, bill.cost, bill.saving_allocated, bill.saving_realised) for bill in bills
        ],
    )


def _column(bills: Iterable[Row[Any]], name: str) -> Iterable[Decimal]:
    values = (bill._mapping[name] for bill in bills)
    return (Decimal(value) for value in values if value is not None)


def _share(part: Decimal, whole: Decimal) -> float | None:
    return float(part / whole) if whole else None
