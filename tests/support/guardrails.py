"""Canaries with bounds, and bills of the jobs they served."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from store.scorers import activations
from store.scorers.serving import Alias
from store.tables.billing import Bill
from store.tables.scorers import Activation, ScorerVersion
from tests.support.bills import bill
from tests.support.versions import make

LATER = datetime.now(UTC) + timedelta(hours=1)


NUMBERS = count()


FAILURES = {"max_failure_rate": 0.2, "min_jobs": 10}


def bound(
    session: Session,
    bounds: dict[str, Any],
    *,
    row: ScorerVersion | None = None,
    scope: str = "global",
    alias: Alias = Alias.CANARY,
    actor: str = "key_1",
) -> Activation:
    """Activates namm@2, or another one, with bounds."""
    row = row or make(session, "2")
    return activations.activate(session, row, scope, actor, alias=alias, percent=10, bounds=bounds)


def book(session: Session, failed: int, succeeded: int, **columns: Any) -> None:
    """Books jobs that ended."""
    values = {"scorer": "namm@2", "booked_at": LATER, **columns}
    for outcome in ["failed"] * failed + ["succeeded"] * succeeded:
        session.execute(insert(Bill), [bill(next(NUMBERS), **{"outcome": outcome, **values})])
