"""The results of bulk jobs: a line per document, and the totals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, func
from sqlalchemy.orm import Session

from store.bulk.repository import state_of_item
from store.tables.billing import Bill
from store.tables.bulk import Bulk, BulkItem, BulkPart
from store.tables.collections import CollectionItem
from store.tables.jobs import Job, Result
from store.tenancy import scoped


@dataclass(frozen=True)
class Spent:
    """Sums over bills in one currency; None if no bill has the figure."""

    currency: str
    cost: Decimal | None
    allocated_saving: Decimal | None
    realised_saving: Decimal | None
    device_seconds: Decimal
    tokens_document: Decimal
    tokens_kept: Decimal
    tokens_generated: Decimal
    peak_bytes: int | None  # the largest
    dense_bytes: int | None


# The fields of `Spent` after the currency, in order.
_FIGURES = (
    func.sum(Bill.cost),
    func.sum(Bill.allocated_saving),
    func.sum(Bill.realised_saving),
    func.sum(Bill.device_seconds),
    func.sum(Bill.tokens_document),
    func.sum(Bill.tokens_kept),
    func.sum(Bill.tokens_generated),
    func.max(Bill.peak_bytes),
    func.max(Bill.dense_bytes),
)


@dataclass(frozen=True)
class Line:
    """The result for one document of a bulk job."""

    seq: int
    path: str
    document_id: str | None
    sha256: str | None
    state: str
    job_id: str | None
    policy: str | None
    policy_reason: str | None
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
    """A page in the order of the paths; `after` is the last `seq` of the previous page."""
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
    parts = Counter(
        session.scalars(
            scoped(BulkPart, tenant_id)
            .where(BulkPart.bulk_id == bulk_id, BulkPart.seq.in_(seqs))
            .with_only_columns(BulkPart.seq)
        )
    )
    spent = _spent_by_document(session, tenant_id, bulk_id, seqs)
    return [
        Line(
            seq=item.seq,
            path=item.path,
            document_id=item.document_id,
            sha256=item.sha256,
            state=shown_state,
            job_id=item.job_id,
            policy=job.policy if job else None,
            policy_reason=job.policy_reason if job else None,
            scorer=job.scorer if job else None,
            scorer_sha256=job.scorer_sha256 if job else None,
            model_revision=job.model_revision if job else None,
            answers=result.answers if result else [],
            complete=bool(result and result.complete),
            usage=result.usage if result else None,
            error_code=(job.error_code if job else None) or item.error_code,
            error_message=(job.error_message if job else None) or item.error_message,
            parts=parts[item.seq],
            spent=spent[item.seq],
        )
        for item, shown_state, job, result in rows
    ]


def all_lines(session: Session, bulk: Bulk) -> Iterator[Line]:
    """All lines, in the order of the paths."""
    after = -1
    while page := lines(session, bulk.tenant_id, bulk.id, after=after):
        yield from page
        after = page[-1].seq


def all_spent(session: Session, tenant_id: str, bulk_id: str) -> list[Spent]:
    """Totals over all jobs, including retries, parts and the digest; by currency."""
    query = _bills(tenant_id, bulk_id).with_only_columns(Bill.currency, *_FIGURES).group_by(Bill.currency)
    rows: Iterable[Any] = session.execute(query.order_by(Bill.currency))
    return [Spent(*row) for row in rows]


def _spent_by_document(
    session: Session, tenant_id: str, bulk_id: str, seqs: Sequence[int]
) -> dict[int | None, list[Spent]]:
    """The same per document."""
    query = _bills(tenant_id, bulk_id).where(Job.bulk_seq.in_(seqs))
    grouped = query.with_only_columns(Job.bulk_seq, Bill.currency, *_FIGURES)
    found: dict[int | None, list[Spent]] = defaultdict(list)
    for seq, *row in session.execute(grouped.group_by(Job.bulk_seq, Bill.currency).order_by(Bill.currency)):
        found[seq].append(Spent(*row))
    return found


def _bills(tenant_id: str, bulk_id: str) -> Select[Any]:
    return scoped(Bill, tenant_id).join(Job, Job.id == Bill.job_id).where(Job.bulk_id == bulk_id)


def digest(session: Session, bulk: Bulk) -> tuple[Job, Result | None] | None:
    """The job that summarized the summaries, and its result."""
    if bulk.digest_job_id is None:
        return None
    job = session.get_one(Job, bulk.digest_job_id)
    return job, session.get(Result, job.id)


def gone(session: Session, bulk: Bulk) -> list[str]:
    """Paths that the collection lost between the previous bulk job over it and this one."""
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
