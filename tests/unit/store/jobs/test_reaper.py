"""What happens to jobs whose worker is gone, whose time is over, or whose hint was lost."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from store import idempotency, jobs, outbox, workers
from store.database import Database
from store.jobs import leases, reaper
from store.jobs.leases import Holder
from store.tables.job_states import State
from tests.support.claimed_jobs import USAGE, Submit, hints, look, sweep, take, token_of
from tests.support.models import find_model


def test_lost_worker_counts_and_the_last_one_fails_the_job(db: Database, submit: Submit) -> None:
    job = submit(max_attempts=2)
    take(db, lease_seconds=0)
    assert sweep(db).requeued == 1
    assert (look(db, job).state, look(db, job).attempts_lost) == ("queued", 1)
    take(db, lease_seconds=0)
    assert sweep(db).failed == 1
    failed = look(db, job)
    assert (failed.state, failed.error_code) == ("failed", "worker_lost")
    assert failed.error_message
    assert failed.failed_at


def test_live_lease_is_left_alone(db: Database, submit: Submit) -> None:
    submit(deadline_at=datetime.now(UTC) + timedelta(seconds=0.2))
    [job] = take(db)
    with db.session() as session:
        session.execute(text("UPDATE jobs SET deadline_at = now() - interval '1 hour'"))
    assert sweep(db) == reaper.Reaped()
    with db.session() as session:
        assert leases.finalize(session, job.id, token_of(job)).late


def test_deadline_in_the_queue_and_with_a_lost_worker(db: Database, tenant: str, submit: Submit) -> None:
    deadline = datetime.now(UTC) + timedelta(hours=1)
    running = submit(deadline_at=deadline)
    [job] = take(db, lease_seconds=30)
    with db.session() as session:
        leases.progress(
            session,
            job.id,
            token_of(job),
            phase="answering",
            tokens_done=5,
            tokens_total=5,
            tokens_per_second=None,
            usage=USAGE,
            answers=[{"text": "half"}],
        )
    waiting = submit(deadline_at=deadline)
    with db.session() as session:
        session.execute(
            text(
                "UPDATE jobs SET deadline_at = now() - interval '1 s', "
                "lease_expires_at = now() - interval '1 s'"
            )
        )
    assert take(db) == []
    assert sweep(db).expired == 2
    for ended in (look(db, running), look(db, waiting)):
        assert (ended.state, ended.error_code) == ("expired", "deadline_passed")
    with db.session() as session:
        kept = jobs.result(session, tenant, running.id)
        assert kept is not None
        assert (kept.complete, kept.answers) == (False, [{"text": "half"}])


def test_cancelling_without_a_worker_is_cancelled(db: Database, tenant: str, submit: Submit) -> None:
    job = submit()
    take(db, lease_seconds=0)
    with db.session() as session:
        jobs.cancel(session, tenant, job.id)
    assert sweep(db).cancelled == 1
    assert look(db, job).state == State.CANCELLED


def test_lost_hint_is_sent_again_once_for_all_jobs_of_a_model(db: Database, submit: Submit) -> None:
    for model in ("small", "small", "large"):
        submit(model=model)
    with db.session() as session:
        sent = outbox.lock_hints(session)
        outbox.drop(session, sent)
        jobs.note_hints(session, [hint.job_id for hint in sent if hint.job_id])
    assert sweep(db).hinted == 0
    with db.session() as session:
        session.execute(text("UPDATE jobs SET hinted_at = now() - interval '61 seconds'"))
    assert sweep(db).hinted == 2
    assert sorted(hint.queue for hint in hints(db)) == ["jobs.large", "jobs.small"]
    assert sweep(db).hinted == 0


def test_a_job_that_rests_is_hinted_once_it_has_rested(db: Database, submit: Submit) -> None:
    job = submit()
    [held] = take(db)
    with db.session() as session:
        outbox.drop(session, outbox.lock_hints(session))
        leases.release(session, held.id, token_of(held), usage=USAGE, lost=False, refused="no_scorer")
    assert (look(db, job).state, hints(db), sweep(db).hinted) == ("queued", [], 0)
    assert take(db) == []
    with db.session() as session:
        session.execute(text("UPDATE jobs SET claimable_at = now()"))
    assert sweep(db).hinted == 1
    assert sweep(db).hinted == 0, "the next one after as long as any hint"
    with db.session() as session:
        [row] = leases.claim(session, ["small"], Holder("wrk_two", "cpu", 1), limit=9, lease_seconds=9)
        pins = {"model_revision": "r", "scorer": "namm@1", "scorer_sha256": "s"}
        leases.pin(session, row.id, token_of(row), **pins)
    assert (look(db, job).refusals, look(db, job).claimable_at) == (0, None)


def test_hint_still_in_the_outbox_is_not_doubled(db: Database, submit: Submit) -> None:
    submit()
    with db.session() as session:
        session.execute(text("UPDATE jobs SET queued_at = now() - interval '1 day'"))
    assert sweep(db).hinted == 0


def test_forget_drops_what_is_over(db: Database, tenant: str) -> None:
    with db.session() as session:
        idempotency.begin(session, tenant, "POST /v1/jobs", "k", "f", hours=1)
        session.execute(text("UPDATE idempotency_keys SET expires_at = now() - interval '1 s'"))
        workers.register(session, "wrk_old", "host", "cpu")
        workers.advertise(session, "wrk_old", workers.ModelCard("gone"), loaded=False)
        workers.register(session, "wrk_new", "host", "cpu")
        session.execute(
            text("UPDATE workers SET heartbeat_at = now() - interval '2 days' WHERE id = 'wrk_old'")
        )
        for age in ("6 days", "8 days"):
            outbox.add_event(session, tenant, age, "job.succeeded", {})
        outbox.add_hint(session, "small", "a hint")
        aged = "UPDATE outbox SET created_at = now() - CAST(replace(job_id, 'a hint', '8 days') AS interval)"
        session.execute(text(aged))
        reaper.forget(session)
        assert set(session.scalars(text("SELECT job_id FROM outbox"))) == {"6 days", "a hint"}
        assert session.scalar(text("SELECT count(*) FROM idempotency_keys")) == 0
        assert list(session.scalars(text("SELECT id FROM workers"))) == ["wrk_new"]
        assert find_model(session, "gone", 60) is None
