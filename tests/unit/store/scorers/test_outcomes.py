"""What came of versions: counted by how jobs ended, by version and interval, for those who may see it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from store import tenants
from store.database import Database
from store.errors import NotFound
from store.scorers import outcomes, registry
from store.scorers.outcomes import Ends, Money, VersionOutcome, wilson
from store.tables.billing import Bill
from store.tables.scorers import ShadowRun
from tests.support.bills import bill
from tests.support.claimed_jobs import Submit, sweep, take
from tests.support.versions import make

START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(days=1)
NOON = START + timedelta(hours=12)


def book(session: Session, *rows: dict[str, Any]) -> None:
    session.execute(insert(Bill), rows)


def found(session: Session, tenant_id: str | None = None) -> dict[str, VersionOutcome]:
    made = outcomes.of_scorer(session, "namm", START, END, tenant_id=tenant_id)
    return {one.version: one for one in made}


def test_how_jobs_ended_is_counted_once_a_job(db: Database, tenant: str) -> None:
    with db.session() as session:
        make(session, "1")
        ends = ["succeeded"] * 3 + ["failed"] * 2 + ["cancelled", "expired"]
        book(
            session,
            *(bill(n, NOON, scorer="namm@1", outcome=outcome) for n, outcome in enumerate(ends)),
            bill(20, NOON, scorer="namm@1", outcome="released", jobs=0),
            bill(21, NOON, scorer="namm@1", outcome="lost", jobs=0),
        )
        one = found(session)["1"]
        assert one.jobs == Ends(succeeded=3, failed=2, cancelled=1, expired=1)
        assert one.failure_rate is not None
        assert one.failure_rate.value == 0.4, "of those that succeeded or failed"
        assert one.device_seconds == 9 * Decimal("36.5"), "of every attempt"
        assert one.score_share == pytest.approx(1.25 / 36.5)
        assert one.state == "verified"


def test_a_job_that_failed_with_its_worker_lost_has_failed(db: Database, submit: Submit) -> None:
    submit(max_attempts=1)
    take(db, lease_seconds=0)
    assert sweep(db).failed == 1
    with db.session() as session:
        session.execute(text("UPDATE bills SET scorer = 'namm@1', booked_at = '2026-03-01 12:00Z'"))
        assert session.scalar(text("SELECT outcome FROM bills")) == "lost"
        assert found(session)["1"].jobs == Ends(failed=1)


def test_figures_stay_apart_by_version_currency_interval_and_tenant(db: Database, tenant: str) -> None:
    with db.session() as session:
        other = tenants.ensure(session, "ten_other", "other")
        book(
            session,
            bill(1, NOON, scorer="namm@1", cost=Decimal("2"), realised_saving=Decimal("-1")),
            bill(2, NOON, scorer="namm@1", cost=Decimal("3"), currency="EUR"),
            bill(3, NOON, scorer="namm@2", cost=Decimal("5"), tenant_id=other),
            bill(4, NOON, scorer="namm@1", cost=Decimal("7"), tenant_id=other),
            bill(5, START, scorer="namm@1", cost=Decimal("11")),
            bill(6, END, scorer="namm@1", cost=Decimal("13")),
            bill(7, START - timedelta(microseconds=1), scorer="namm@1", cost=Decimal("17")),
            bill(8, NOON, scorer="namm-key@1"),
            bill(9, NOON, scorer="nammy@1"),
            bill(10, NOON, scorer=None),
        )
        mine = found(session, tenant)
        assert list(mine) == ["1"]
        assert mine["1"].money == [
            Money("EUR", Decimal("3"), None, None),
            Money("USD", Decimal("13"), None, Decimal("-1")),
        ]
        assert {version: one.jobs.succeeded for version, one in found(session).items()} == {"1": 4, "2": 1}


def test_what_was_kept_is_of_jobs_that_succeeded(db: Database, tenant: str) -> None:
    tokens = {"tokens_document": Decimal(1000), "scorer": "namm@1"}
    with db.session() as session:
        book(
            session,
            bill(1, NOON, tokens_kept=Decimal(100), scorer_quality=Decimal("0.9"), **tokens),
            bill(2, NOON, tokens_kept=Decimal(300), scorer_quality=Decimal("0.8"), **tokens),
            bill(3, NOON, tokens_kept=Decimal(0), outcome="failed", **tokens),
        )
        one = found(session)["1"]
        assert one.kept == 0.2
        assert one.scorer_quality == pytest.approx(0.85), "a mean over those that say"
        assert one.state is None, "not in the registry"
        book(session, bill(4, NOON, scorer="namm@2", outcome="failed"))
        empty = found(session)["2"]
        assert (empty.kept, empty.scorer_quality, empty.shadow.agreement) == (None, None, None)


def shadow(session: Session, job: str, version: str, tenant_id: str, **values: Any) -> None:
    row = {
        "stable": "namm@1",
        "outcome": "answered",
        "answers": 4,
        "agreed": 3,
        "device_seconds": 1.0,
        "created_at": NOON,
    }
    version_id = registry.get(session, "namm", version).id
    keys = {"job_id": job, "version_id": version_id, "tenant_id": tenant_id}
    session.execute(insert(ShadowRun).values(**{**row, **keys, **values}))


def test_shadow_runs_are_summed_and_a_broken_one_agrees_with_nothing(
    db: Database, tenant: str, submit: Submit
) -> None:
    jobs = [submit().id for _ in range(5)]
    with db.session() as session:
        tenants.ensure(session, "ten_other", "other")
        make(session, "2")
        make(session, "3")
        shadow(session, jobs[0], "2", tenant, answers=6, agreed=6)
        shadow(session, jobs[1], "2", tenant, answers=2, agreed=0)
        shadow(session, jobs[2], "2", tenant, answers=0, agreed=0, outcome="broke", error="no memory")
        shadow(session, jobs[3], "2", "ten_other")
        shadow(session, jobs[4], "2", tenant, answers=0, agreed=0, outcome="not_made", error="no such blob")
        shadow(session, jobs[0], "3", tenant, created_at=END)
        mine = found(session, tenant)["2"].shadow
        assert (mine.runs, mine.failed, mine.not_made, mine.answers, mine.agreed) == (3, 1, 1, 9, 6)
        assert mine.agreement == wilson(6, 9)
        assert found(session)["2"].shadow.runs == 4
        assert found(session)["3"].shadow.runs == 0


def test_versions_side_by_side_in_the_order_asked_for(db: Database, tenant: str) -> None:
    with db.session() as session:
        one = make(session, "1")
        make(session, "2")
        registry.attach_evaluation(session, one, {"score": 0.97}, "key_1")
        book(session, bill(1, NOON, scorer="namm@3"))
        asked = outcomes.compare(session, "namm", ["3", "1", "3"], START, END, tenant_id=None)
        assert [(each.scorer, each.evaluation) for each in asked] == [
            ("namm@3", None),
            ("namm@1", {"score": 0.97}),
        ]
        assert list(found(session)) == ["2", "1", "3"], "the registry's newest first"
        with pytest.raises(NotFound, match="no scorer namm@9"):
            outcomes.compare(session, "namm", ["1", "9"], START, END, tenant_id=None)
        with pytest.raises(NotFound, match="no scorer 'other'"):
            outcomes.of_scorer(session, "other", START, END, tenant_id=None)


def test_an_interval_by_wilson() -> None:
    assert wilson(0, 0) is None
    some = wilson(5, 50)
    assert some is not None
    assert (some.value, round(some.low, 4), round(some.high, 4)) == (0.1, 0.0435, 0.2136)  # Newcombe's form
    for part, whole in ((0, 7), (7, 7), (1, 3)):
        rate = wilson(part, whole)
        assert rate is not None
        assert 0 <= rate.low <= rate.value <= rate.high <= 1
        assert rate.low < rate.high
