"""Bills: the ledger lines of an attempt summed into one wide row, which reports then aggregate.

A bill is written in the same transaction as the lines, and depends on nothing but these lines, the attempt
and its job; `rebuild` recreates all bills identically. The formulas and their versions are in
docs/explanation/savings.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import chain
from types import MappingProxyType
from typing import Any

from sqlalchemy import delete, insert, select, text
from sqlalchemy.orm import Session

from store.billing import prices
from store.billing.prices import MONEY, PriceBook
from store.tables.billing import Bill, UsageLine
from store.tables.job_states import State
from store.tables.jobs import Attempt, Job

DEVICE_SECONDS = "device_seconds."  # one meter per phase: device_seconds.read, device_seconds.score …
STORAGE = "storage_byte_seconds"

# Transactions that are booking wait with uncommitted lines: a rebuild sees neither these nor their bills.
LOCK = text("LOCK TABLE bills IN SHARE ROW EXCLUSIVE MODE")
DIFFERENT = text(
    "SELECT count(*) FROM bills FULL JOIN bills_before AS before USING (job_id, attempt) "
    "WHERE to_jsonb(bills) IS DISTINCT FROM to_jsonb(before)"
)

# Columns that sum a meter's lines, waste included.
_ADDED = {
    "tokens_read": "tokens.read",
    "tokens_cached": "tokens.cached",
    "tokens_prompt": "tokens.prompt",
    "tokens_generated": "tokens.generated",
    "rereads": "rereads",
    "kv_byte_seconds": "kv_byte_seconds.actual",
    "dense_byte_seconds": "kv_byte_seconds.dense",
    "snapshot_bytes": "snapshot_bytes",
    STORAGE: STORAGE,
}
# Columns that are set once, when a job ends: they add up over jobs, not over a job's attempts.
_OF_THE_JOB = {
    "tokens_document": "tokens.document",
    "tokens_kept": "tokens.kept",
    "tokens_evicted": "tokens.evicted",
    "answers": "answers",
    "answers_at_risk": "answers.at_risk",
}
_LARGEST = {
    "kept_bytes": "kv_bytes.kept",
    "resident_bytes": "kv_bytes.resident",
    "peak_bytes": "kv_bytes.peak",
    "dense_bytes": "kv_bytes.dense",
}


def of_attempt(lines: Sequence[UsageLine], attempt: Attempt, job: Job, book: PriceBook) -> dict[str, Any]:
    """The columns of a bill; `lines` are those of all the job's attempts, of which later ones are ignored."""
    usage = attempt.usage or {}
    lines = [line for line in lines if line.attempt <= attempt.attempt]
    own = [line for line in lines if line.attempt == attempt.attempt]
    last = attempt.ended_job
    bill: dict[str, Any] = {
        "job_id": job.id,
        "attempt": attempt.attempt,
        "tenant_id": job.tenant_id,
        "booked_at": attempt.ended_at,
        "project": job.project,
        "api_key_id": job.api_key_id,
        "model": job.model,
        "policy": job.policy,
        "reading": usage.get("reading"),
        "warnings": [warning["code"] for warning in usage.get("warnings", ())],
        "priority": job.priority,
        "tags": job.tags,
        "model_revision": attempt.model_revision,
        "scorer": attempt.scorer,
        "scorer_quality": attempt.scorer_quality,
        "device_type": attempt.device_type,
        "outcome": attempt.outcome,
        "currency": book.currency,
        "price_book_id": attempt.price_book_id,
        "jobs": int(last),
        "attempts": 1,
    }
    seconds = [line for line in own if is_time(line)]
    bill["device_seconds"] = total(seconds)
    bill["score_seconds"] = total(line for line in seconds if line.meter == DEVICE_SECONDS + "score")
    bill["waste_seconds"] = total(line for line in seconds if line.waste)
    for column, meter in _ADDED.items():
        bill[column] = total(line for line in own if line.meter == meter)
    for column, meter in _OF_THE_JOB.items():
        bill[column] = (largest(own, meter) or Decimal(0)) if last else Decimal(0)
    for column, meter in _LARGEST.items():
        found = largest(own, meter)
        bill[column] = None if found is None else int(found)
    device = attempt.device_type
    bill["cost"] = cost(own, book, device)
    bill["waste_cost"] = cost([line for line in own if line.waste], book, device)
    bill["fits"] = largest(own, "tokens.evicted") == 0
    saved = Decimal(0) if bill["fits"] else bill["dense_byte_seconds"] - bill["kv_byte_seconds"]
    bill["allocated_saving"] = book.amount("device_seconds", device, saved / attempt.device_memory_bytes)
    return bill | _full_cache(lines, attempt, job, book, bill)


def _full_cache(
    lines: Sequence[UsageLine],
    attempt: Attempt,
    job: Job,
    book: PriceBook,
    bill: Mapping[str, Any],
) -> dict[str, Any]:
    """What the same document would have cost with a full cache, if measured runs allow an estimate."""
    nothing = {"full_cache_cost": None, "full_cache_devices": None, "realised_saving": None}
    slots = (attempt.usage or {}).get("budget")  # that the document was read with
    full = book.full_cache_of(job.model, attempt.device_type, slots)
    own = [line for line in lines if line.attempt == attempt.attempt]
    tokens = largest(own, "tokens.document")
    if attempt.outcome != State.SUCCEEDED or full is None or not tokens:
        return nothing
    useful = [line for line in lines if is_time(line) and not line.waste]
    # Reading takes longer and there is no scorer; counting, answering and loading are unchanged.
    factors = {DEVICE_SECONDS + "read": full.slowdown(int(tokens)), DEVICE_SECONDS + "score": Decimal(0)}
    actual = cost(useful, book, attempt.device_type)
    # While nothing is evicted, a full cache would have been no different.
    estimated = actual if bill["fits"] else cost(useful, book, attempt.device_type, factors)
    if estimated is None or actual is None:
        return nothing
    needed = full.weights_bytes + (bill["dense_bytes"] or 0)
    return {
        "full_cache_cost": estimated,
        "full_cache_devices": max(1, math.ceil(needed / attempt.device_memory_bytes)),
        "realised_saving": estimated - actual,
    }


def of_storage(line: UsageLine, book: PriceBook, book_id: str) -> dict[str, Any]:
    """The bill for an hour of a tenant's stored documents."""
    return {
        "job_id": line.job_id,
        "attempt": line.attempt,
        "tenant_id": line.tenant_id,
        "booked_at": line.created_at,
        "outcome": "stored",
        "currency": book.currency,
        "price_book_id": book_id,
        "jobs": 0,
        "attempts": 0,
        STORAGE: line.quantity,
        "cost": book.amount(STORAGE, None, line.quantity),
        "waste_cost": Decimal(0),
    }


def cost(
    lines: Sequence[UsageLine],
    book: PriceBook,
    device: str | None,
    factors: Mapping[str, Decimal] = MappingProxyType({}),
) -> Decimal | None:
    """Sum of the lines' amounts, with quantities scaled by meter; None if device time has no price."""
    amounts = [
        book.amount(line.meter, device, line.quantity * factors.get(line.meter, Decimal(1))) for line in lines
    ]
    if any(value is None and is_time(line) for line, value in zip(lines, amounts, strict=True)):
        return None
    return sum((value for value in amounts if value is not None), Decimal(0)).quantize(MONEY, ROUND_HALF_EVEN)


def is_time(line: UsageLine) -> bool:
    """Whether a line counts device seconds."""
    return line.meter.startswith(DEVICE_SECONDS)


def total(lines: Iterator[UsageLine] | Sequence[UsageLine]) -> Decimal:
    return sum((line.quantity for line in lines), Decimal(0))


def largest(lines: Sequence[UsageLine], meter: str) -> Decimal | None:
    return max((line.quantity for line in lines if line.meter == meter), default=None)


def book_attempt(session: Session, job: Job, attempt: Attempt) -> None:
    """Writes the bill of an attempt that has just ended, after its lines."""
    session.flush()
    session.refresh(attempt, ["ended_at"])
    lines = list(session.scalars(select(UsageLine).where(UsageLine.job_id == job.id)))
    session.execute(insert(Bill).values(**_of_ended(session, lines, attempt, job)))


def _of_ended(session: Session, lines: Sequence[UsageLine], attempt: Attempt, job: Job) -> dict[str, Any]:
    return of_attempt(lines, attempt, job, prices.get(session, attempt.price_book_id))


def rebuild(session: Session, jobs_at_once: int = 500) -> int:
    """Recreates every bill from the ledger, in the caller's transaction; returns their number.

    Until the commit, reports see the old bills, and attempts that end wait to be booked.
    """
    session.execute(LOCK)
    session.execute(delete(Bill))
    count = 0
    for made in chain(_storage_bills(session, jobs_at_once), _pages_of_bills(session, jobs_at_once)):
        session.execute(insert(Bill), made)
        count += len(made)
    return count


def rebuild_and_compare(session: Session) -> tuple[int, int]:
    """Rebuilds; returns the number of bills, and of those that are new, missing or different."""
    session.execute(LOCK)
    session.execute(text("CREATE TEMPORARY TABLE bills_before ON COMMIT DROP AS TABLE bills"))
    count = rebuild(session)
    return count, session.scalars(DIFFERENT).one()


def _storage_bills(session: Session, lines_at_once: int) -> Iterator[list[dict[str, Any]]]:
    book_of = prices.in_effect(UsageLine.created_at).correlate(UsageLine)
    after = ""
    while True:
        query = select(UsageLine, book_of).where(UsageLine.meter == STORAGE, UsageLine.id > after)
        found = session.execute(query.order_by(UsageLine.id).limit(lines_at_once)).all()
        if not found:
            return
        after = found[-1][0].id
        yield [of_storage(line, prices.get(session, book_id), book_id) for line, book_id in found]
        session.expunge_all()


def _pages_of_bills(session: Session, jobs_at_once: int) -> Iterator[list[dict[str, Any]]]:
    after = ""
    while True:
        query = select(Job).where(Job.id > after, Job.attempt > 0).order_by(Job.id).limit(jobs_at_once)
        jobs = {job.id: job for job in session.scalars(query)}
        if not jobs:
            return
        after = max(jobs)
        lines: dict[str, list[UsageLine]] = {job_id: [] for job_id in jobs}
        for line in session.scalars(select(UsageLine).where(UsageLine.job_id.in_(jobs))):
            lines[line.job_id].append(line)
        ended = select(Attempt).where(Attempt.job_id.in_(jobs), Attempt.ended_at.is_not(None))
        made = [
            _of_ended(session, lines[attempt.job_id], attempt, jobs[attempt.job_id])
            for attempt in session.scalars(ended)
        ]
        if made:
            yield made
        session.expunge_all()
