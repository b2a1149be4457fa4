"""What bulk jobs have made: a line for each document, and what all of it came to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import Session

from store.bulk_tables import Bulk, BulkItem, BulkPart, CollectionItem
from store.bulks import state_of_item
from store.models import Job, Result
from store.money import Bill
from store.tenants import scoped


@dataclass(frozen=True)
class Spent:
    """Sums over bills of one currency; None where no bill has the figure."""

    currency: str
    cost: Decimal | None
    allocated_saving: Decimal | None
    realised_saving: Decimal | None
    device_seconds: Decimal
    tokens_document: Decimal
    tokens_kept: Decimal
    tokens_generated: Decimal
    peak_bytes: int | None  # of the largest
    dense_bytes: int | None


@dataclass(frozen=True)
class Line:
    """A document of a bulk job."""

    seq: int
    path: str
    document_id: str | None
    sha256: str | None
    state: str
    job_id: str | None
    scorer: str | None
    scorer_sha256: str | None
    model_revision: str | None
    answers: list[dict[str, Any]]
    complete: bool
    usage: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    parts: int
    spent: list[Spent]


def lines(
    session: Session,
    tenant_id: str,
    bulk_id: str,
    *,
    after: int = -1,
    limit: int = 200,
    state: str | None = None,
) -> list[Line]:
    """A page in the order of the paths; `after` is the last `seq` of the page before."""
    shown = state_of_item()
    query = (
        scoped(BulkItem, tenant_id)
        .add_columns(shown.label("shown"), Job, Result)
        .outerjoin(Job, Job.id == BulkItem.job_id)
        .outerjoin(Result, Result.job_id == BulkItem.job_id)
        .where(BulkItem.bulk_id == bulk_id, BulkItem.seq > after)
        .order_by(BulkItem.seq)
        .limit(limit)
    )
    if state is not None:
        query = query.where(shown == state)
    rows = session.execute(query).all()
    seqs = [row[0].seq for row in rows]
    parts: dict[int, list[str]] = defaultdict(list)
    found = scoped(BulkPart, tenant_id).where(BulkPart.bulk_id == bulk_id, BulkPart.seq.in_(seqs))
    for part in session.scalars(found):
        parts[part.seq].append(part.job_id)
    own = {row[0].seq: [*parts[row[0].seq], *filter(None, [row[0].job_id])] for row in rows}
    bills = _bills(session, tenant_id, [job_id for ids in own.values() for job_id in ids])
    return [
        Line(
            seq=item.seq,
            path=item.path,
            document_id=item.document_id,
            sha256=item.sha256,
            state=shown_state,
            job_id=item.job_id,
            scorer=job.scorer if job else None,
            scorer_sha256=job.scorer_sha256 if job else None,
            model_revision=job.model_revision if job else None,
            answers=result.answers if result else [],
            complete=bool(result and result.complete),
            usage=result.usage if result else None,
            error_code=(job.error_code if job else None) or item.error_code,
            error_message=(job.error_message if job else None) or item.error_message,
            parts=len(parts[item.seq]),
            spent=summed(bill for job_id in own[item.seq] for bill in bills[job_id]),
        )
        for item, shown_state, job, result in rows
    ]


def all_lines(session: Session, bulk: Bulk) -> Iterator[Line]:
    """Every one, in the order of the paths."""
    after = -1
    while page := lines(session, bulk.tenant_id, bulk.id, after=after):
        yield from page
        after = page[-1].seq


def _bills(session: Session, tenant_id: str, job_ids: list[str]) -> dict[str, list[Bill]]:
    found: dict[str, list[Bill]] = defaultdict(list)
    for bill in session.scalars(scoped(Bill, tenant_id).where(Bill.job_id.in_(job_ids))):
        found[bill.job_id].append(bill)
    return found


def all_spent(session: Session, tenant_id: str, bulk_id: str) -> list[Spent]:
    """Over all its jobs: those tried again, those of parts and the digest's too."""
    query = scoped(Bill, tenant_id).join(Job, Job.id == Bill.job_id)
    return summed(session.scalars(query.where(Job.bulk_id == bulk_id)))


def summed(bills: Iterable[Bill]) -> list[Spent]:
    """By currency; amounts in different ones are never added up."""
    groups: dict[str, list[Bill]] = defaultdict(list)
    for bill in bills:
        groups[bill.currency].append(bill)
    return [
        Spent(
            currency=currency,
            cost=_sum(one.cost for one in group),
            allocated_saving=_sum(one.allocated_saving for one in group),
            realised_saving=_sum(one.realised_saving for one in group),
            device_seconds=_sum(one.device_seconds for one in group) or Decimal(0),
            tokens_document=_sum(one.tokens_document for one in group) or Decimal(0),
            tokens_kept=_sum(one.tokens_kept for one in group) or Decimal(0),
            tokens_generated=_sum(one.tokens_generated for one in group) or Decimal(0),
            peak_bytes=max((one.peak_bytes for one in group if one.peak_bytes is not None), default=None),
            dense_bytes=max((one.dense_bytes for one in group if one.dense_bytes is not None), default=None),
        )
        for currency, group in sorted(groups.items())
    ]


def _sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if known else None


def digest(session: Session, bulk: Bulk) -> tuple[Job, Result | None] | None:
    """The job that read the summaries, and what it made of them."""
    if bulk.digest_job_id is None:
        return None
    job = session.get_one(Job, bulk.digest_job_id)
    return job, session.get(Result, job.id)


def gone(session: Session, bulk: Bulk) -> list[str]:
    """Paths that were in the collection at its bulk job before this one, and were no longer at this one."""
    if bulk.collection_id is None or bulk.listed_at is None:
        return []
    earlier = scoped(Bulk, bulk.tenant_id).where(
        Bulk.collection_id == bulk.collection_id, Bulk.listed_at < bulk.listed_at
    )
    before = session.scalar(earlier.with_only_columns(func.max(Bulk.listed_at)))
    if before is None:
        return []
    query = scoped(CollectionItem, bulk.tenant_id).where(
        CollectionItem.collection_id == bulk.collection_id,
        CollectionItem.deleted_at > before,
        CollectionItem.deleted_at <= bulk.listed_at,
    )
    return sorted(item.path for item in session.scalars(query))
