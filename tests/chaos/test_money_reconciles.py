"""Hundreds of jobs, sixteen writers, some of them killed at any moment: money adds up to the last decimal."""

import multiprocessing
import random
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select, text

from store import documents, jobs, tenants
from store.billing import bills, ledger, prices, reports
from store.database import Database
from store.errors import LeaseLost
from store.jobs import leases, reaper
from store.jobs.leases import Holder
from store.tables.billing import UsageLine
from store.tables.job_states import TERMINAL, State
from store.tables.jobs import Job
from tests.support.depth import deep

JOBS, WRITERS, KILLS = deep(500, 2000), 16, deep(10, 24)
USD = {
    "name": "odd cents",
    "currency": "USD",
    "price": [{"meter": "device_seconds", "unit": "device-hour", "amount": "0.7301"}],
}
EUR = USD | {"name": "odder cents", "currency": "EUR"}


def _write(url: str, seed: int) -> None:
    """Claims a job, reports, takes a snapshot now and then, ends it; until there is none."""
    database, rng = Database(url, pool_size=1), random.Random(seed)
    while True:
        with database.session() as session:
            claimed = leases.claim(
                session, ["small"], Holder(f"w{seed}", "cpu", 2**33), limit=1, lease_seconds=2
            )
        if not claimed:
            time.sleep(0.05)
            continue
        with suppress(LeaseLost):  # too slow for its two seconds: the job is somebody else's now
            _work(database, claimed[0], rng)


def _work(database: Database, job: Job, rng: random.Random) -> None:
    assert job.lease_token is not None
    token, usage = job.lease_token, _usage(rng, 0.5)
    with database.session() as session:
        step: dict[str, Any] = {"phase": "reading", "tokens_done": 1, "tokens_total": 2}
        leases.progress(session, job.id, token, **step, tokens_per_second=None, usage=usage)
    if rng.random() < 0.3:
        with database.session() as session:
            leases.record_snapshot(session, job.id, token, key="k", tokens=1, usage=usage, total_usage=usage)
    with database.session() as session:
        how = rng.random()
        if how < 0.1:
            leases.release(session, job.id, token, usage=_usage(rng, 0.7), lost=rng.random() < 0.3)
        elif how < 0.2:
            leases.finish(session, job.id, token, State.FAILED, usage=_usage(rng, 0.7), code="c", message="m")
        else:
            leases.finalize(session, job.id, token)
            leases.finish(session, job.id, token, State.SUCCEEDED, usage=_usage(rng, 1.0))


def _usage(rng: random.Random, share: float) -> dict[str, Any]:
    return {
        "seconds": {
            "read": share * rng.uniform(1, 99),
            "score": share * rng.random(),
            "answer": rng.random(),
        },
        "tokens_document": 1000,
        "tokens_read": int(1000 * share),
        "kv_byte_seconds": share * rng.uniform(1e9, 1e12),
        "dense_byte_seconds": share * 1e13,
    }


def _submit(database: Database) -> str:
    with database.session() as session:
        tenant = tenants.ensure(session)
        document = documents.create(
            session, tenant, "doc_1", sha256="0" * 64, size=1, media_type="text/plain", filename=None
        )
        for _ in range(JOBS):
            new = jobs.NewJob(document.id, "ask", ["?"], "small", "window", max_attempts=2)
            jobs.create(session, tenant, new)
    return tenant


@pytest.mark.deep
def test_money_reconciles_after_hundreds_of_jobs_and_kills(database_url: str) -> None:
    database, rng = Database(database_url), random.Random(0)
    with database.session() as session:
        prices.add(session, prices.parse(USD))
    tenant = _submit(database)
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write, args=(database_url, i), daemon=True) for i in range(WRITERS)]
    for writer in writers:
        writer.start()
    kills, until = 0, time.monotonic() + 300
    try:
        while True:
            assert time.monotonic() < until, "the jobs did not end"
            time.sleep(0.1)
            with database.session() as session:
                reaper.sweep(session, hint_seconds=600)
                ended = session.scalar(select(func.count()).select_from(Job).where(Job.state.in_(TERMINAL)))
                if kills == KILLS // 2:
                    prices.add(session, prices.parse(EUR))  # the currency changes in the middle
            if ended == JOBS:
                break
            if kills < KILLS:
                victim = rng.randrange(WRITERS)
                assert writers[victim].is_alive(), "a writer died of something else than a kill"
                writers[victim].kill()
                writers[victim].join()
                kills += 1
                writers[victim] = fork.Process(target=_write, args=(database_url, 100 + kills), daemon=True)
                writers[victim].start()
    finally:
        for writer in writers:
            writer.kill()
    assert kills == KILLS, "too few were killed for this to show anything"
    _check(database, tenant)
    database.close()


def _check(database: Database, tenant: str) -> None:
    with database.session() as session:
        everything = [ledger.cost(session, tenant, job_id) for job_id in session.scalars(select(Job.id))]
        now = datetime.now(UTC)
        query = reports.Query(tenant, now - timedelta(hours=1), now + timedelta(hours=1))
        [bucket] = reports.run(session, query).buckets
        lines = session.scalar(select(func.count()).select_from(UsageLine))
    assert len(everything) == JOBS
    assert {row.currency for row in bucket.rows} == {"USD", "EUR"}
    for row in bucket.rows:
        priced = [line for cost in everything for line in cost.lines if line.currency == row.currency]
        assert row.values["cost"] == sum((line.amount or Decimal(0) for line in priced), Decimal(0))
        waste = [line.amount or Decimal(0) for line in priced if line.waste]
        assert row.values["cost_waste"] == sum(waste, Decimal(0)) > 0
        figures = [figure for cost in everything for figure in cost.summary if figure.unit == row.currency]
        for name, metric in (("cost", "cost"), ("saving.allocated", "saving_allocated")):
            found = [figure.quantity for figure in figures if figure.name == name]
            assert row.values[metric] == sum(found, Decimal(0))
        seconds = [line.quantity for line in priced if line.meter.startswith("device_seconds.")]
        assert row.values["device_seconds"] == sum(seconds, Decimal(0))
    assert sum(len(cost.lines) for cost in everything) == lines
    assert sum(row.values["jobs"] or 0 for row in bucket.rows) == JOBS
    order = text("SELECT * FROM bills ORDER BY job_id, attempt")
    with database.session() as session:
        before = session.execute(order).all()
        assert bills.rebuild(session) == len(before) > JOBS
        assert session.execute(order).all() == before
