"""The life of jobs under every order of events: a model beside the database, and what must always hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from store import documents, jobs, tenants
from store.database import Database
from store.errors import LeaseLost
from store.jobs import leases, reaper
from store.tables.billing import UsageLine
from store.tables.job_states import LEASED, TERMINAL, State
from store.tables.jobs import Attempt, Job, Result
from store.tables.outbox import OutboxRow
from tests.support.depth import deep
from tests.unit.store.conftest import HOLDER

USAGE = {"seconds": {"read": 1.0}, "tokens_document": 10}
ENDS = {"succeed": State.SUCCEEDED, "fail": State.FAILED, "expire": State.EXPIRED, "cancel": State.CANCELLED}


def report(session: Session, job_id: str, token: int) -> None:
    leases.progress(
        session,
        job_id,
        token,
        phase="reading",
        tokens_done=1,
        tokens_total=10,
        tokens_per_second=None,
        usage=USAGE,
        answers=[{"text": str(token)}],
    )


def end(session: Session, job_id: str, token: int, state: State) -> None:
    leases.finish(session, job_id, token, state, answers=[{"text": "end"}], usage=USAGE)


def snap(session: Session, job_id: str, token: int) -> None:
    leases.record_snapshot(session, job_id, token, key="k", tokens=1, usage=USAGE, total_usage=USAGE)


ZOMBIE_ACTS: dict[str, Callable[[Session, str, int], object]] = {
    "progress": report,
    "snapshot": snap,
    "finalize": leases.finalize,
    "succeed": lambda s, job_id, token: end(s, job_id, token, State.SUCCEEDED),
    "fail": lambda s, job_id, token: end(s, job_id, token, State.FAILED),
    "release": lambda s, job_id, token: leases.release(s, job_id, token, usage=USAGE, lost=True),
}


@dataclass
class Known:
    """What the model knows of a job."""

    tokens: list[int] = field(default_factory=list)  # all it ever had, in order
    held: bool = False  # the last of them is valid
    ended: str | None = None
    ended_at: object = None


class Life(RuleBasedStateMachine):
    """Clients, workers and the reaper take turns; tokens of the past are tried again and again."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.known: dict[str, Known] = {}
        self.largest_token = 0
        with database.session() as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))  # the ledger is guarded
            session.execute(
                text("TRUNCATE jobs, results, usage_ledger, bills, outbox, attempts, documents CASCADE")
            )
            session.execute(text("SET LOCAL session_replication_role = origin"))
            self.tenant = tenants.ensure(session)
            self.document = documents.create(
                session,
                self.tenant,
                documents.new_document_id(),
                sha256="",
                size=1,
                media_type="text/plain",
                filename=None,
            ).id

    def row(self, job_id: str) -> Job:
        with self.database.session() as session:
            return jobs.get(session, self.tenant, job_id)

    def pick(self, index: int) -> str:
        """Mostly a job that is alive, the others now and then."""
        alive = [job_id for job_id in sorted(self.known) if self.known[job_id].ended is None]
        among = alive if alive and index % 4 else sorted(self.known)
        return among[index % len(among)]

    def held(self) -> list[str]:
        return [job_id for job_id in sorted(self.known) if self.known[job_id].held]

    def pick_held(self, index: int) -> str:
        return self.held()[index % len(self.held())]

    def past(self) -> list[tuple[str, int]]:
        """(job, token) of all who no longer hold it."""
        return [
            (job_id, token)
            for job_id, mine in self.known.items()
            for token in (mine.tokens[:-1] if mine.held else mine.tokens)
        ]

    # Few jobs, so that each lives through several holders.
    @precondition(lambda self: sum(mine.ended is None for mine in self.known.values()) < 2)
    @rule(priority=st.integers(-2, 2), attempts=st.integers(2, 5))
    def submit(self, priority: int, attempts: int) -> None:
        asked = jobs.NewJob(
            self.document, "ask", ["?"], "small", "window", priority=priority, max_attempts=attempts
        )
        with self.database.session() as session:
            self.known[jobs.create(session, self.tenant, asked).id] = Known()

    @precondition(lambda self: self.known)
    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        with self.database.session() as session:
            claimed = leases.claim(session, ["small"], HOLDER, limit=limit, lease_seconds=1000)
        priorities = [job.priority for job in claimed]
        assert priorities == sorted(priorities, reverse=True)
        for job in claimed:
            mine = self.known[job.id]
            assert not mine.held, "two live leases"
            assert mine.ended is None, "a final state was left"
            assert job.lease_token is not None
            assert job.attempt == len(mine.tokens) + 1
            mine.tokens.append(job.lease_token)
            mine.held = True
        new = sorted(self.known[job.id].tokens[-1] for job in claimed)
        assert all(token > self.largest_token for token in new), "tokens went back"
        self.largest_token = max([self.largest_token, *new])

    @precondition(lambda self: self.held())
    @rule(index=st.integers(0, 20), act=st.sampled_from(["renew", "progress", "finalize"]))
    def write(self, index: int, act: str) -> None:
        job_id = self.pick_held(index)
        token = self.known[job_id].tokens[-1]
        with self.database.session() as session:
            if act == "renew":
                assert leases.renew(session, [(job_id, token)], 1000) == {job_id}
            elif act == "finalize":
                leases.finalize(session, job_id, token)
            else:
                report(session, job_id, token)

    @precondition(lambda self: self.held())
    @rule(index=st.integers(0, 20), how=st.sampled_from(sorted(ENDS)))
    def finish(self, index: int, how: str) -> None:
        job_id = self.pick_held(index)
        mine = self.known[job_id]
        allowed = self.row(job_id).state in leases.sources(ENDS[how])
        try:
            with self.database.session() as session:
                end(session, job_id, mine.tokens[-1], ENDS[how])
        except LeaseLost:
            assert not allowed
        else:
            assert allowed
            mine.held, mine.ended = False, ENDS[how].value

    @precondition(lambda self: self.past())
    @rule()
    def zombies_wake(self) -> None:
        """Everybody who ever held a job and no longer does tries everything."""
        for job_id, token in self.past():
            with self.database.session() as session:
                assert leases.renew(session, [(job_id, token)], 1000) == set()
            for name, act in ZOMBIE_ACTS.items():
                try:
                    with self.database.session() as session:
                        act(session, job_id, token)
                except LeaseLost:
                    continue
                raise AssertionError(f"{name} with a token of the past went through")

    @precondition(lambda self: self.held())
    @rule(index=st.integers(0, 20), why=st.sampled_from(["stops", "lost", "refused"]))
    def release(self, index: int, why: str) -> None:
        job_id = self.pick_held(index)
        mine = self.known[job_id]
        refused = "no_scorer" if why == "refused" else None
        terms = {"usage": USAGE, "lost": why == "lost", "message": "Broke.", "refused": refused}
        with self.database.session() as session:
            leases.release(session, job_id, mine.tokens[-1], **terms)
        mine.held = False
        now = self.row(job_id)
        mine.ended = now.state if now.state in TERMINAL else None
        if refused and now.state == "failed":
            assert (now.refusals, now.error_code) == (now.max_attempts, refused)

    @rule()
    def rest(self) -> None:
        """Time passes: what was refused may be claimed again."""
        with self.database.session() as session:
            session.execute(text("UPDATE jobs SET claimable_at = now() - interval '1 h'"))

    @precondition(lambda self: self.known)
    @rule(index=st.integers(0, 20))
    def cancel(self, index: int) -> None:
        job_id = self.pick(index)
        mine = self.known[job_id]
        with self.database.session() as session:
            after = jobs.cancel(session, self.tenant, job_id)
        assert after.state == (mine.ended or ("cancelling" if mine.held else "cancelled"))
        mine.ended = after.state if after.state in TERMINAL else None

    @precondition(lambda self: self.known)
    @rule(index=st.integers(0, 20), late=st.booleans())
    def expire(self, index: int, late: bool) -> None:
        """The worker of a job goes silent, perhaps past the deadline too; the reaper comes."""
        job_id = self.pick(index)
        mine = self.known[job_id]
        before = self.row(job_id)
        with self.database.session() as session:
            session.execute(
                text(
                    "UPDATE jobs SET lease_expires_at = now() - interval '1 s' "
                    "WHERE id = :id AND lease_token > 0"
                ),
                {"id": job_id},
            )
            if late and mine.ended is None:
                session.execute(
                    text("UPDATE jobs SET deadline_at = now() - interval '1 s' WHERE id = :id"),
                    {"id": job_id},
                )
            reaper.sweep(session, hint_seconds=1000)
        after = self.row(job_id)
        if mine.held:
            mine.held = False
            used_up = before.attempts_lost + 1 >= before.max_attempts
            is_late = before.deadline_at is not None or late
            expected = (
                "cancelled"
                if before.state == "cancelling"
                else "expired"
                if is_late
                else "failed"
                if used_up
                else "queued"
            )
            assert after.state == expected
        mine.ended = after.state if after.state in TERMINAL else None

    @invariant()
    def terminal_is_final_and_leases_are_consistent(self) -> None:
        with self.database.session() as session:
            rows = list(session.scalars(select(Job)))
        for row in rows:
            mine = self.known[row.id]
            stamp = getattr(row, f"{row.state}_at") if row.state in TERMINAL else None
            if mine.ended is not None:
                assert row.state == mine.ended
                assert stamp is not None
                mine.ended_at = mine.ended_at or stamp
                assert stamp == mine.ended_at, "ended twice"
            assert (row.state in LEASED) == mine.held
            assert row.lease_token == (mine.tokens[-1] if mine.held else None)

    @invariant()
    def books_are_in_order(self) -> None:
        with self.database.session() as session:
            events = dict(
                session.execute(
                    select(OutboxRow.job_id, func.count())
                    .where(OutboxRow.kind == "event")
                    .group_by(OutboxRow.job_id)
                ).all()
            )
            open_attempts = set(session.scalars(select(Attempt.job_id).where(Attempt.outcome == "running")))
            complete = set(session.scalars(select(Result.job_id).where(Result.complete)))
            billed = set(session.execute(select(UsageLine.job_id, UsageLine.attempt)).all())
            ended = set(
                session.execute(
                    select(Attempt.job_id, Attempt.attempt).where(
                        Attempt.outcome != "running", Attempt.usage.is_not(None)
                    )
                ).all()
            )
        assert events == {job_id: 1 for job_id, mine in self.known.items() if mine.ended}
        assert open_attempts == {job_id for job_id, mine in self.known.items() if mine.held}
        assert complete == {job_id for job_id, mine in self.known.items() if mine.ended == "succeeded"}
        assert billed == ended


@pytest.mark.deep
def test_every_order_of_events_keeps_the_invariants(db: Database) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Life(db),
        settings=settings(
            max_examples=deep(30, 300),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_no_move_leaves_a_final_state(state: State) -> None:
    assert all(state not in leases.sources(target) for target in State)
