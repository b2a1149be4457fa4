"""Bounds: who is taken out of service, when, by whom, and what is told of it."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.orm import Session

from store import audit, tenants
from store.database import Database
from store.scorers import activations, guardrails, registry
from store.scorers.serving import Alias
from store.tables.audit import AuditEntry
from store.tables.jobs import Job
from store.tables.outbox import OutboxRow
from store.tables.scorers import ShadowRun
from store.tenants import api_keys as keys
from tests.support.claimed_jobs import Submit, sweep, take
from tests.support.guardrails import FAILURES, LATER, book, bound
from tests.support.versions import make

AGREEMENT = {"min_agreement": 0.9, "min_jobs": 3}


@pytest.fixture
def session(db: Database, tenant: str) -> Iterator[Session]:
    """namm@1 is stable everywhere. Tests commit themselves what others are to see."""
    with db.session() as session:
        activations.activate(session, make(session, "1"), "global", "key_1")
    with Session(db.engine, expire_on_commit=False) as session:
        yield session


def shadow(session: Session, jobs: list[Any], agreed: int, **columns: Any) -> None:
    """A shadow run of ten answers by namm@2 for each of the jobs."""
    version = registry.get(session, "namm", "2").id
    for job in jobs:
        keys = {"job_id": job.id, "version_id": version, "tenant_id": job.tenant_id, "stable": "namm@1"}
        figures = {
            "outcome": "answered",
            "answers": 10,
            "agreed": agreed,
            "device_seconds": 1.0,
            "created_at": LATER,
            **columns,
        }
        session.execute(insert(ShadowRun).values(**keys, **figures))


def events(session: Session) -> list[OutboxRow]:
    """Events about scorers."""
    rows = session.scalars(select(OutboxRow).where(OutboxRow.kind == "event").order_by(OutboxRow.id))
    return [row for row in rows if row.payload["type"].startswith("scorer.")]


def crossings(session: Session) -> list[AuditEntry]:
    return [one for one in audit.entries(session) if one.action == guardrails.CROSSED]


def serving(session: Session) -> dict[str, str]:
    """Scope and alias → version."""
    now = activations.current(session)
    return {f"{row.scope} {row.alias}": registry.by_id(session, row.version_id).version for row in now}


def test_too_many_failures_end_a_canary_and_the_figures_are_kept(session: Session) -> None:
    tenants.ensure(session, "ten_ops", "ops")
    key, _ = keys.create(session, "ten_ops", "ops", b"pepper")
    canary = bound(session, FAILURES, actor=key.id)
    book(session, failed=3, succeeded=9)
    assert guardrails.sweep(session) == 1
    assert serving(session) == {"global stable": "1"}
    session.refresh(canary)
    reason = "3 of 12 jobs failed: 25.00%, above the bound of 20.00%"
    assert (canary.ended_by, canary.ended_reason) == (audit.SYSTEM, reason)
    [crossing] = crossings(session)
    assert (crossing.actor, crossing.subject) == (audit.SYSTEM, "namm@2")
    figures = {"bound": "max_failure_rate", "limit": 0.2, "value": 0.25, "part": 3, "whole": 12, "runs": 12}
    place = {"activation": canary.id, "scope": "global", "alias": "canary", "back_to": None}
    assert crossing.detail == {**figures, **place, "done": "canary_ended", "reason": reason}
    ended = next(one for one in audit.entries(session) if one.action == "scorer.ended")
    assert (ended.actor, ended.detail["reason"]) == (audit.SYSTEM, reason)
    [event] = events(session)
    assert event.tenant_id == "ten_ops", "whoever activated it is told"
    assert event.payload == {
        "type": "scorer.canary_ended",
        "scorer": "namm@2",
        "reason": reason,
        **figures,
        **place,
    }


def test_a_rate_at_the_bound_is_within_it(session: Session) -> None:
    bound(session, FAILURES)
    book(session, failed=2, succeeded=8)
    assert guardrails.sweep(session) == 0
    book(session, failed=1, succeeded=0)
    assert guardrails.sweep(session) == 1


def test_nothing_happens_before_enough_jobs_have_ended(session: Session) -> None:
    bound(session, FAILURES)
    book(session, failed=9, succeeded=0)
    for said_nothing in ("cancelled", "expired"):
        book(session, failed=5, succeeded=0, outcome=said_nothing)
    book(session, failed=5, succeeded=0, outcome="lost", jobs=0)
    assert guardrails.sweep(session) == 0
    book(session, failed=1, succeeded=0)
    assert guardrails.sweep(session) == 1


def test_twenty_jobs_are_enough_where_nothing_is_said(session: Session) -> None:
    bound(session, {"max_failure_rate": 0.0, "min_agreement": None, "min_jobs": None})
    book(session, failed=19, succeeded=0)
    assert guardrails.sweep(session) == 0
    book(session, failed=0, succeeded=1)
    assert guardrails.sweep(session) == 1


@pytest.mark.parametrize(
    ("scope", "within", "without"),
    [
        ("global", {"model": "large", "tenant_id": "ten_other"}, {"scorer": "namm@1"}),
        ("model:large", {"model": "large"}, {"model": "small"}),
        ("tenant:ten_other", {"tenant_id": "ten_other"}, {"model": "large"}),
        ("schedule:s", {"tags": {"schedule_id": "s"}}, {"tags": {"schedule_id": "t"}}),
    ],
)
def test_only_the_scopes_jobs_since_the_activation_count(
    session: Session, scope: str, within: dict[str, Any], without: dict[str, Any]
) -> None:
    tenants.ensure(session, "ten_other", "other")
    bound(session, FAILURES, scope=scope)
    book(session, failed=10, succeeded=0, **without)
    book(session, failed=10, succeeded=0, **within, booked_at=LATER - timedelta(days=1))
    assert guardrails.sweep(session) == 0
    book(session, failed=10, succeeded=0, **within)
    assert guardrails.sweep(session) == 1
    assert f"{scope} canary" not in serving(session)


def test_a_job_that_failed_with_its_worker_lost_counts(
    db: Database, session: Session, submit: Submit
) -> None:
    bound(session, {"max_failure_rate": 0.0, "min_jobs": 1})
    session.commit()
    submit(max_attempts=1)
    take(db, lease_seconds=0)
    assert sweep(db).failed == 1
    with db.session() as fresh:
        fresh.execute(text("UPDATE bills SET scorer = 'namm@2', booked_at = booked_at + interval '1 hour'"))
        assert guardrails.sweep(fresh) == 1


def test_what_a_client_asked_wrongly_is_not_held_against_a_version(session: Session, submit: Submit) -> None:
    bound(session, FAILURES)
    book(session, failed=0, succeeded=6)
    jobs = [submit() for _ in range(6)]
    for job in jobs:
        book(session, failed=1, succeeded=0, job_id=job.id)
    ids = [job.id for job in jobs]
    for code, ended in (("document_too_long", 0), ("internal_error", 1)):
        session.execute(update(Job).where(Job.id.in_(ids)).values(state="failed", error_code=code))
        assert guardrails.sweep(session) == ended, code


def test_too_little_agreement_ends_a_canary(session: Session, submit: Submit) -> None:
    canary = bound(session, AGREEMENT)
    jobs = [submit() for _ in range(5)]
    shadow(session, jobs[:2], agreed=0)
    shadow(session, jobs[2:3], agreed=0, created_at=LATER - timedelta(days=1))
    assert guardrails.sweep(session) == 0, "two runs since the activation"
    shadow(session, jobs[3:4], agreed=10)
    assert guardrails.sweep(session) == 1
    session.refresh(canary)
    assert canary.ended_reason == (
        "10 of 30 answers in 3 shadow runs agreed: 33.33%, below the bound of 90.00%"
    )
    assert events(session)[0].payload["bound"] == "min_agreement"


def test_enough_agreement_keeps_a_canary(session: Session, submit: Submit) -> None:
    bound(session, AGREEMENT)
    shadow(session, [submit() for _ in range(4)], agreed=9)
    assert guardrails.sweep(session) == 0
    assert serving(session)["global canary"] == "2"


def test_shadow_runs_of_other_scopes_do_not_count(session: Session, submit: Submit) -> None:
    bound(session, AGREEMENT, scope="model:large")
    shadow(session, [submit(model="small") for _ in range(3)], agreed=0)
    assert guardrails.sweep(session) == 0
    shadow(session, [submit(model="large") for _ in range(3)], agreed=0)
    assert guardrails.sweep(session) == 1


def test_shadow_runs_that_all_break_agree_with_nothing(session: Session, submit: Submit) -> None:
    bound(session, AGREEMENT)
    shadow(session, [submit() for _ in range(3)], agreed=0, answers=0, outcome="broke", error="x")
    assert guardrails.sweep(session) == 1


def test_shadow_runs_that_were_not_made_count_for_nothing(session: Session, submit: Submit) -> None:
    bound(session, AGREEMENT)
    jobs = [submit() for _ in range(5)]
    shadow(session, jobs[:3], agreed=0, answers=0, outcome="not_made", error="no such blob")
    shadow(session, jobs[3:], agreed=0)
    assert guardrails.sweep(session) == 0, "two runs were made, and three are asked for"


def test_a_stable_version_is_rolled_back(session: Session) -> None:
    bound(session, FAILURES, alias=Alias.STABLE)
    book(session, failed=10, succeeded=0)
    assert guardrails.sweep(session) == 1
    assert serving(session) == {"global stable": "1"}
    [event] = events(session)
    assert (event.payload["type"], event.payload["back_to"]) == ("scorer.rolled_back", "namm@1")
    [crossing] = crossings(session)
    assert (crossing.detail["done"], crossing.detail["back_to"]) == ("rolled_back", "namm@1")
    assert guardrails.sweep(session) == 0


def test_without_a_way_back_it_is_told_once_and_nothing_else_changes(session: Session) -> None:
    stable = bound(session, FAILURES, scope="model:small", alias=Alias.STABLE)
    activations.activate(session, make(session, "3"), "model:small", "k", alias=Alias.CANARY, percent=5)
    before = serving(session)
    book(session, failed=10, succeeded=0)
    assert guardrails.sweep(session) == 1
    assert serving(session) == before
    session.commit()
    book(session, failed=10, succeeded=0)
    assert guardrails.sweep(session) == 0
    [event] = events(session)
    assert (event.payload["type"], event.payload["back_to"]) == ("scorer.bound_crossed", None)
    [crossing] = crossings(session)
    assert (crossing.detail["activation"], crossing.detail["done"]) == (stable.id, "bound_crossed")
    # Activated anew it is watched anew.
    again = bound(session, FAILURES, row=registry.get(session, "namm", "2"), scope="model:b")
    book(session, failed=10, succeeded=0, model="b")
    assert guardrails.sweep(session) == 1
    assert crossings(session)[0].detail["activation"] == again.id


def waits_for_a_turn(database: Database) -> bool:
    with database.session() as session:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return bool(session.scalar(text(waiting)))


def test_of_two_reapers_one_acts(db: Database, session: Session) -> None:
    bound(session, FAILURES)
    book(session, failed=10, succeeded=0)
    session.commit()
    acted: list[int] = []

    def other() -> None:
        with db.session() as mine:
            acted.append(guardrails.sweep(mine))

    with db.session() as first:
        assert guardrails.sweep(first) == 1
        thread = threading.Thread(target=other)
        thread.start()
        # The other one has seen the canary open and the bound crossed before this one commits.
        while not waits_for_a_turn(db):
            assert thread.is_alive()
            time.sleep(0.01)
    thread.join()
    assert acted == [0]
    with db.session() as after:
        assert len(events(after)) == len(crossings(after)) == 1


def test_a_canary_begun_meanwhile_is_not_ended_for_the_one_before(db: Database, session: Session) -> None:
    bound(session, FAILURES)
    three = make(session, "3")
    book(session, failed=10, succeeded=0)
    session.commit()
    acted: list[int] = []

    def reaper() -> None:
        with db.session() as mine:
            acted.append(guardrails.sweep(mine))

    with db.session() as person:
        bound(person, FAILURES, row=three)
        thread = threading.Thread(target=reaper)
        thread.start()
        while not waits_for_a_turn(db):
            assert thread.is_alive()
            time.sleep(0.01)
    thread.join()
    assert acted == [0]
    with db.session() as after:
        assert serving(after)["global canary"] == "3"


def test_bounds_that_cannot_be_read_stop_nothing(session: Session) -> None:
    bound(session, {"max_failure_rate": "much"}, scope="model:small")
    bound(session, FAILURES, row=make(session, "3"))
    book(session, failed=10, succeeded=0, scorer="namm@3")
    assert guardrails.sweep(session) == 1
    assert serving(session) == {"global stable": "1", "model:small canary": "2"}
