"""The bill of a job: exact sums, the price at the time, waste in sight, no line twice."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from store import jobs, tenants
from store.billing import ledger, prices
from store.database import Database
from store.errors import NotFound
from store.jobs import leases, reaper
from store.tables.job_states import State
from store.tables.jobs import Job
from tests.unit.store.conftest import CENTS, HOLDER

Submit = Callable[..., Job]
GIB = 1024**3
USAGE = {
    "seconds": {"read": 7.0, "answer": 3.0},
    "tokens_document": 1000,
    "peak_bytes": 100,
    "dense_bytes": 1000,
    "kv_byte_seconds": 800.0 * GIB,
    "dense_byte_seconds": 8000.0 * GIB,
}


def figures(cost: ledger.JobCost) -> dict[str, tuple[Decimal, str]]:
    return {figure.name: (figure.quantity, figure.measurement) for figure in cost.summary}


def finish(db: Database, usage: dict[str, object], holder: leases.Holder = HOLDER) -> Job:
    with db.session() as session:
        [job] = leases.claim(session, ["small"], holder, limit=1, lease_seconds=30)
        assert job.lease_token is not None
        leases.finalize(session, job.id, job.lease_token)
        leases.finish(session, job.id, job.lease_token, State.SUCCEEDED, usage=usage)
    return job


def bill(db: Database, job: Job) -> ledger.JobCost:
    with db.session() as session:
        return ledger.cost(session, job.tenant_id, job.id)


def test_cost_and_savings_of_a_simple_job(db: Database, submit: Submit) -> None:
    submit()
    cost = bill(db, finish(db, USAGE))
    assert (cost.final, cost.currency, cost.price_per_device_hour) == (True, "USD", Decimal("0.36"))
    assert figures(cost) == {
        "device_seconds": (Decimal(10), "measured"),
        "device_seconds.score": (Decimal(0), "measured"),
        "device_seconds.waste": (Decimal(0), "measured"),
        "cost": (Decimal("0.001"), "derived"),
        "cost.waste": (Decimal(0), "derived"),
        "kv_bytes.peak": (Decimal(100), "derived"),
        "kv_bytes.dense": (Decimal(1000), "derived"),
        "memory_saved.peak": (Decimal(900), "derived"),
        "memory_saved.byte_seconds": (Decimal(7200 * GIB), "derived"),
        # 7200 of the 8 GiB × 3600 s that an hour of the device has, at 0.36: a quarter of it
        "saving.allocated": (Decimal("0.09"), "estimated"),
    }
    assert all(line.method_version and not line.waste for line in cost.lines)


FITS = {
    **USAGE,
    "budget": 64,
    "tokens_kept": 40.0,
    "tokens_evicted": 0.0,
    "peak_bytes": 5000,
    "kv_byte_seconds": 9000.0 * GIB,
    "no_saving": "No saving: the document fits in the cache.",
}


def test_a_document_that_fits_neither_saves_nor_loses_anything(db: Database, submit: Submit) -> None:
    submit()
    cost = bill(db, finish(db, FITS))
    found = figures(cost)
    assert found["memory_saved.peak"][0] == found["memory_saved.byte_seconds"][0] == 0
    assert found["saving.allocated"][0] == found["saving.realised"][0] == 0
    assert found["full_cache.cost"][0] == found["cost"][0] == Decimal("0.001")
    assert cost.no_saving == "No saving: the document fits in the cache."
    held = {line.meter: line.quantity for line in cost.lines}
    assert held["kv_byte_seconds.actual"] == 9000 * GIB, "the ledger says what was held"


def test_where_something_was_evicted_a_saving_may_be_negative(db: Database, submit: Submit) -> None:
    submit()
    cost = bill(db, finish(db, {**FITS, "tokens_evicted": 0.5, "no_saving": None}))
    assert figures(cost)["memory_saved.byte_seconds"][0] == -1000 * GIB
    assert figures(cost)["saving.realised"][0] > 0
    assert cost.no_saving is None


def test_the_bill_says_how_it_was_read(db: Database, submit: Submit) -> None:
    submit()
    told = {"positions": "absolute", "reading": "guided", "rereads": 1, "answers": 3, "answers_at_risk": 2}
    warnings = [{"code": "slots_piled_up", "message": "Most slots lie in one fifth."}]
    cost = bill(db, finish(db, {**USAGE, **told, "warnings": warnings}))
    assert cost.setting is not None
    assert (cost.setting.reading, cost.setting.rereads) == ("guided", 1)
    meters = {line.meter: (line.quantity, line.unit) for line in cost.lines}
    assert meters["rereads"] == (1, "reread")
    assert meters["answers.at_risk"] == (2, "answer")
    columns = "reading, rereads, answers, answers_at_risk, warnings"
    with db.session() as session:
        row = session.execute(text(f"SELECT {columns} FROM bills")).one()
    assert tuple(row) == ("guided", 1, 3, 2, ["slots_piled_up"])


def test_price_of_the_time_stays(db: Database, submit: Submit) -> None:
    submit()
    job = finish(db, USAGE)
    submit()
    ten_times = CENTS.price[0].model_copy(update={"amount": Decimal("3.6")})
    with db.session() as session:
        prices.add(session, CENTS.model_copy(update={"name": "e", "currency": "EUR", "price": (ten_times,)}))
    dearer = finish(db, USAGE)
    assert figures(bill(db, job))["cost"][0] == Decimal("0.001")
    assert figures(bill(db, dearer))["cost"][0] == Decimal("0.01")
    assert bill(db, dearer).currency == "EUR"


def test_lost_attempt_is_split_at_its_snapshot(db: Database, submit: Submit) -> None:
    job = submit()
    half = {
        **USAGE,
        "seconds": {"read": 4.0, "answer": 0.0},
        "kv_byte_seconds": 1.0,
        "dense_byte_seconds": 2.0,
    }
    with db.session() as session:
        [held] = leases.claim(session, ["small"], HOLDER, limit=1, lease_seconds=0)
        assert held.lease_token is not None
        leases.record_snapshot(
            session, job.id, held.lease_token, key="k", tokens=5, usage=half, total_usage=half
        )
        leases.progress(
            session,
            job.id,
            held.lease_token,
            phase="reading",
            tokens_done=9,
            tokens_total=10,
            tokens_per_second=None,
            usage={**half, "seconds": {"read": 5.0, "answer": 0.0}},
        )
    with db.session() as session:
        reaper.sweep(session, hint_seconds=60)
    finish(db, {**USAGE, "seconds": {"read": 6.0, "answer": 1.0}})
    cost = bill(db, job)
    assert figures(cost)["device_seconds"][0] == Decimal(12)
    assert figures(cost)["device_seconds.waste"][0] == Decimal(1)
    assert figures(cost)["cost.waste"][0] == Decimal("0.0001")
    lost = {line.method_version for line in cost.lines if line.attempt == 1}
    assert lost == {ledger.LAST_REPORT}


def test_tokens_answered_before_a_retry_are_charged_once(db: Database, submit: Submit) -> None:
    job = submit()
    tokens = {"meter": "tokens.generated", "unit": "million tokens", "amount": "1000000"}
    time = {"meter": "device_seconds", "unit": "device-hour", "amount": 0}
    with db.session() as session:
        book = prices.parse({"name": "by token", "currency": "USD", "price": [tokens, time]})
        prices.add(session, book)
    first = {**USAGE, "tokens_generated": 5, "tokens_prompt": 2}
    whole = {**USAGE, "tokens_generated": 12, "tokens_prompt": 4}
    with db.session() as session:
        [held] = leases.claim(session, ["small"], HOLDER, limit=1, lease_seconds=30)
        token = held.lease_token or 0
        leases.record_snapshot(session, job.id, token, key="k", tokens=5, usage=first, total_usage=first)
        leases.release(session, job.id, token, usage=first, lost=False)
    finish(db, ledger.share(whole, first))
    assert figures(bill(db, job))["cost"][0] == Decimal(12)
    with db.session() as session:
        row = session.execute(text("SELECT sum(tokens_generated), sum(tokens_prompt) FROM bills")).one()
    assert tuple(row) == (Decimal(12), Decimal(4))


@pytest.mark.parametrize("vanished", [True, False])
def test_all_is_waste_of_the_lost_attempt_that_its_job_fails_with(
    db: Database, submit: Submit, vanished: bool
) -> None:
    job = submit(max_attempts=1)
    half = {**USAGE, "seconds": {"read": 4.0, "answer": 0.0}}
    more = {**USAGE, "seconds": {"read": 5.0, "answer": 0.0}}
    with db.session() as session:
        [held] = leases.claim(session, ["small"], HOLDER, limit=1, lease_seconds=0)
        token = held.lease_token or 0
        leases.record_snapshot(session, job.id, token, key="k", tokens=5, usage=half, total_usage=half)
        step = {"phase": "reading", "tokens_done": 9, "tokens_total": 10, "tokens_per_second": None}
        leases.progress(session, job.id, token, **step, usage=more)
    with db.session() as session:
        if vanished:
            assert reaper.sweep(session, hint_seconds=60).failed == 1
        else:
            leases.release(session, job.id, token, usage=more, lost=True)
    found = figures(bill(db, job))
    assert found["device_seconds.waste"][0] == found["device_seconds"][0] == Decimal(5)
    assert found["cost.waste"][0] == found["cost"][0] == Decimal("0.0005")


def test_no_line_is_written_twice(db: Database, submit: Submit) -> None:
    submit()
    job = finish(db, USAGE)
    with db.session() as session:
        [attempt] = jobs.attempts(session, job.tenant_id, job.id)
    with pytest.raises(IntegrityError), db.session() as session:
        ledger.record(session, job, attempt)


def test_bill_of_another_tenant_is_not_found(db: Database, submit: Submit) -> None:
    job = submit()
    with db.session() as session:
        stranger = tenants.ensure(session, "ten_other", "other")
        with pytest.raises(NotFound):
            ledger.cost(session, stranger, job.id)
        assert ledger.lines(session, stranger, job.id) == []


def test_bill_before_the_first_attempt_is_empty(db: Database, submit: Submit) -> None:
    cost = bill(db, submit())
    assert (cost.final, cost.currency, cost.summary, cost.lines) == (False, None, [], [])


def test_share_is_what_came_after_the_start() -> None:
    start = {"seconds": {"read": 5.0}, "kv_byte_seconds": 10.0}
    own = ledger.share(
        {"seconds": {"read": 7.0, "answer": 1.0}, "kv_byte_seconds": 11.0, "tokens_document": 4}, start
    )
    assert own == {"seconds": {"read": 2.0, "answer": 1.0}, "kv_byte_seconds": 1.0, "tokens_document": 4}
    assert ledger.share({"seconds": {"read": 0.0}}, start) == {"seconds": {"read": 0}}


def test_ledger_outlives_its_reader(db: Database, submit: Submit) -> None:
    submit()
    job = finish(db, USAGE)
    with db.session() as session:
        total = session.scalar(
            text("SELECT sum(quantity) FROM usage_ledger WHERE meter LIKE 'device_seconds.%'")
        )
    assert total == sum(
        line.quantity for line in bill(db, job).lines if line.meter.startswith("device_seconds.")
    )
