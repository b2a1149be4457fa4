"""Bulk jobs as their owners see them: create, read, list, cancel, retry.

The conductor (`worker.bulk.conductor`) submits their jobs with `store.bulk.submission` and moves them from
state to state with `store.bulk.lifecycle`: `listing → running → digesting → bundling → succeeded | failed`,
and `cancelling → cancelled`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import ColumnElement, Engine, and_, case, delete, func, insert, or_, text
from sqlalchemy.orm import Session

from store import documents, outbox
from store.billing.budgets import BudgetState
from store.errors import Conflict
from store.ids import new_id
from store.jobs.admission import Ask, Owner, enforce_budget
from store.tables.bulk import Bulk, BulkItem, BulkPart
from store.tables.bulk_states import ENDED, BulkState
from store.tables.job_states import State
from store.tables.jobs import Job
from store.tenancy import get_scoped, scoped

CHANNEL = "palimpsest_bulks"


class NotRetryable(Conflict):
    """Nothing of the bulk job can be retried now."""

    code = "not_retryable"


@dataclass(frozen=True)
class NewBulk:
    """A validated request for a bulk job.

    Attributes:
        collection_id: the collection to process; None = `documents`.
        documents: (path, document id) pairs, the paths unique.
        only_changed: only documents that are new, or changed since the same task last succeeded for them.
    """

    ask: Ask
    collection_id: str | None = None
    collection_name: str | None = None
    documents: Sequence[tuple[str, str]] = ()
    deadline_at: datetime | None = None
    strategy: str = "whole"  # whole | map_reduce
    only_changed: bool = False
    digest: bool = True
    destination: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)


def create(session: Session, owner: Owner, new: NewBulk) -> Bulk:
    """Creates a bulk job and wakes the conductor. Raises NotFound."""
    row = Bulk(
        id=new_id("bulk"),
        tenant_id=owner.tenant_id,
        api_key_id=owner.key_id,
        project=owner.project,
        collection_id=new.collection_id,
        collection_name=new.collection_name,
        ask=ask_to_json(new.ask),
        deadline_at=new.deadline_at,
        strategy=new.strategy,
        only_changed=new.only_changed,
        digest=new.digest,
        destination=new.destination,
        tags=new.tags,
    )
    session.add(row)
    session.flush()
    if new.documents:
        known = documents.named(session, owner.tenant_id, {document for _, document in new.documents})
        session.execute(
            insert(BulkItem),
            [
                {
                    "bulk_id": row.id,
                    "seq": seq,
                    "tenant_id": owner.tenant_id,
                    "path": path,
                    "document_id": document,
                    "sha256": known[document].sha256,
                }
                for seq, (path, document) in enumerate(sorted(new.documents))
            ],
        )
    wake(session)
    return row


def wake(session: Session) -> None:
    """Wakes the conductor once this transaction has committed."""
    session.execute(text(f"NOTIFY {CHANNEL}"))


def listen(engine: Engine) -> psycopg.Connection[Any]:
    """A dedicated connection that receives `wake`; the caller closes it."""
    return outbox.listen(engine, CHANNEL)


def wait(connection: psycopg.Connection[Any], seconds: float) -> bool:
    """Waits for `wake`; False if it did not come in time."""
    return outbox.wait(connection, seconds)


def get(session: Session, tenant_id: str, bulk_id: str) -> Bulk:
    """Raises NotFound."""
    return get_scoped(session, Bulk, tenant_id, id=bulk_id)


def page(
    session: Session,
    tenant_id: str,
    *,
    state: str | None = None,
    collection_id: str | None = None,
    before: str | None = None,
    limit: int = 20,
) -> list[Bulk]:
    """The tenant's bulk jobs, newest first; `before` is the id of the previous page's last one."""
    query = scoped(Bulk, tenant_id).order_by(Bulk.id.desc()).limit(limit)
    if state is not None:
        query = query.where(Bulk.state == state)
    if collection_id is not None:
        query = query.where(Bulk.collection_id == collection_id)
    if before is not None:
        query = query.where(Bulk.id < before)
    return list(session.scalars(query))


def count(session: Session, bulk: Bulk) -> dict[str, int]:
    """Items by state; for an item with a job, the state is the job's."""
    state = state_of_item()
    query = scoped(BulkItem, bulk.tenant_id).where(BulkItem.bulk_id == bulk.id)
    query = query.outerjoin(Job, Job.id == BulkItem.job_id).group_by(state)
    return {row[0]: row[1] for row in session.execute(query.with_only_columns(state, func.count()))}


def state_of_item() -> ColumnElement[str]:
    """An item's state as its owner sees it: `pending`, `failed`, `cancelled`, `mapped`, or its job's."""
    return case((BulkItem.state == "submitted", Job.state), else_=BulkItem.state)


def cancel(session: Session, tenant_id: str, bulk_id: str) -> Bulk:
    """Cancels the unfinished documents; finished ones go into the bundle. Raises NotFound.

    Idempotent, and without effect on a bulk job that has ended.
    """
    row = _locked(session, tenant_id, bulk_id)
    if row.state not in ENDED and row.cancel_requested_at is None:
        row.cancel_requested_at = func.now()
        if row.state != BulkState.BUNDLING:
            row.state = BulkState.CANCELLING
        wake(session)
    session.flush()
    session.refresh(row)
    return row


def retry(session: Session, tenant_id: str, bulk_id: str, spent: BudgetState | None = None) -> Bulk:
    """Retries what did not succeed, and makes the bundle again. A deadline that has passed is dropped.

    Raises NotFound, NotRetryable, and BudgetExceeded if new jobs are needed and `spent` rejects them.
    """
    row = _locked(session, tenant_id, bulk_id)
    if row.state not in ENDED:
        raise NotRetryable("The bulk job has not ended yet.")
    failed, digest_missing = _failed(session, row), _digest_missing(session, row)
    if row.listed_at is not None and not failed and not digest_missing and row.delivery_error is None:
        raise NotRetryable("The bulk job has nothing left to retry.")
    if row.listed_at is None or failed or digest_missing:
        enforce_budget(spent)
    for item in failed:
        item.state, item.job_id = "pending", None
        item.error_code = item.error_message = None
    session.flush()
    _forget_parts(session, row, [item.seq for item in failed])
    if failed or digest_missing:
        row.digest_document_id = row.digest_job_id = row.digest_error = None
    if session.scalars(
        scoped(Bulk, tenant_id).where(Bulk.id == row.id, Bulk.deadline_at <= func.now())
    ).first():
        row.deadline_at = None
    row.state = BulkState.RUNNING if row.listed_at is not None else BulkState.LISTING
    row.round += 1
    row.cancel_requested_at = row.ended_at = row.delivered_at = None
    row.error_code = row.error_message = row.delivery_error = None
    session.flush()
    wake(session)
    session.refresh(row)
    return row


def _failed(session: Session, bulk: Bulk) -> list[BulkItem]:
    """Items that can be retried; files that could not be read have no document to retry with."""
    unsuccessful = and_(BulkItem.state == "submitted", Job.state != State.SUCCEEDED)
    query = (
        scoped(BulkItem, bulk.tenant_id)
        .outerjoin(Job, Job.id == BulkItem.job_id)
        .where(BulkItem.bulk_id == bulk.id, BulkItem.document_id.is_not(None))
        .where(or_(BulkItem.state.in_(("failed", "cancelled")), unsuccessful))
        .with_for_update(of=BulkItem)
    )
    return list(session.scalars(query))


def _digest_missing(session: Session, bulk: Bulk) -> bool:
    """Whether a requested digest is missing although there are summaries to make it from."""
    if not bulk.digest or count(session, bulk).get(State.SUCCEEDED, 0) < 2:
        return False
    made = scoped(Job, bulk.tenant_id).where(Job.id == bulk.digest_job_id, Job.state == State.SUCCEEDED)
    return session.scalars(made).first() is None


def _forget_parts(session: Session, bulk: Bulk, seqs: Sequence[int]) -> None:
    """Of documents in parts, forgets the parts that must be read again: those that did not succeed."""
    done = scoped(Job, bulk.tenant_id).where(Job.id == BulkPart.job_id, Job.state == State.SUCCEEDED).exists()
    again = and_(BulkPart.bulk_id == bulk.id, BulkPart.seq.in_(seqs), ~done)
    session.execute(delete(BulkPart).where(again), execution_options={"synchronize_session": False})


def _locked(session: Session, tenant_id: str, bulk_id: str) -> Bulk:
    query = scoped(Bulk, tenant_id).where(Bulk.id == bulk_id).with_for_update()
    row = session.scalars(query, execution_options={"populate_existing": True}).one_or_none()
    return row if row is not None else get(session, tenant_id, bulk_id)  # raises NotFound


def ask_to_json(ask: Ask) -> dict[str, Any]:
    """The stored form; it has no deadline."""
    values = asdict(ask)
    del values["deadline_at"]
    return values


def ask_from_json(values: dict[str, Any], deadline_at: datetime | None = None) -> Ask:
    """The stored request, with a deadline."""
    fields = {**values, "questions": tuple(values["questions"]), "deadline_at": deadline_at}
    if "budget" in fields:  # stored by a process of the version before, after the migration
        fields["cache_budget"] = fields.pop("budget")
    return Ask(**fields)
