"""Bulk jobs as the conductor moves them.

Each step is one short, idempotent transaction; after a crash the next conductor resumes from the last commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, and_, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session, aliased

from store import jobs, outbox
from store.bulk import repository
from store.errors import Refused
from store.tables.bulk import Bulk, BulkItem, BulkPart
from store.tables.bulk_states import ENDED, BulkState
from store.tables.collections import CollectionItem
from store.tables.job_states import TERMINAL, State
from store.tables.jobs import Job, Result

BATCH = 100  # items per transaction
_JOB_ENDED = Job.state.in_(TERMINAL)


@contextmanager
def exclusive(engine: Engine, what: str) -> Iterator[bool]:
    """True for one conductor at a time, until the block ends or its connection breaks.

    This only avoids duplicate work; correctness rests on the steps being idempotent.
    """
    lock = func.hashtextextended(f"conductor/{what}", 0)
    with engine.connect() as connection:
        taken = bool(connection.scalar(select(func.pg_try_advisory_lock(lock))))
        connection.commit()
        try:
            yield taken
        finally:
            if taken:
                connection.execute(select(func.pg_advisory_unlock(lock)))
                connection.commit()


def active(session: Session) -> Sequence[str]:
    """The ids of the bulk jobs that have not ended, the oldest first."""
    return session.scalars(select(Bulk.id).where(Bulk.state.not_in(ENDED)).order_by(Bulk.id)).all()


def lock(session: Session, bulk_id: str) -> Bulk:
    """The row, locked until the transaction ends."""
    query = select(Bulk).where(Bulk.id == bulk_id).with_for_update()
    return session.scalars(query, execution_options={"populate_existing": True}).one()


def enter(session: Session, bulk_id: str, state: BulkState) -> Bulk | None:
    """The row, locked, if it is still in this state and was neither cancelled nor moved on."""
    bulk = lock(session, bulk_id)
    return bulk if bulk.state == state else None


# From the collection to items -------------------------------------------------------------------------


def list_items(session: Session, bulk_id: str) -> None:
    """Fixes the list of documents; later changes of the collection do not affect it."""
    bulk = lock(session, bulk_id)
    if bulk.state != BulkState.LISTING:
        return
    if bulk.collection_name is not None and bulk.collection_id is None:
        return _close(session, bulk, BulkState.FAILED, "collection_gone", "The collection was deleted.")
    if bulk.collection_id is not None:
        rows = [
            {
                "bulk_id": bulk.id,
                "seq": seq,
                "tenant_id": bulk.tenant_id,
                "path": item.path,
                # A file that cannot be read now must not stand for its earlier content.
                "document_id": None if item.error_code else item.document_id,
                "sha256": None if item.error_code else item.sha256,
                "state": "failed" if item.error_code else "pending",
                "error_code": item.error_code,
                "error_message": item.error_message,
            }
            for seq, item in enumerate(sorted(_chosen(session, bulk), key=lambda item: item.path))
        ]
        if rows:
            session.execute(insert(BulkItem), rows)
    bulk.state, bulk.listed_at = BulkState.RUNNING, func.now()
    return None


def _chosen(session: Session, bulk: Bulk) -> Sequence[CollectionItem]:
    query = select(CollectionItem).where(
        CollectionItem.collection_id == bulk.collection_id,
        CollectionItem.deleted_at.is_(None),
        or_(CollectionItem.document_id.is_not(None), CollectionItem.error_code.is_not(None)),
    )
    if bulk.only_changed:
        before = aliased(Bulk)
        done = (
            exists()
            .where(
                before.collection_id == bulk.collection_id,
                before.ask == bulk.ask,
                before.strategy == bulk.strategy,
                BulkItem.bulk_id == before.id,
                BulkItem.path == CollectionItem.path,
                BulkItem.sha256 == CollectionItem.sha256,
                Job.id == BulkItem.job_id,
                Job.state == State.SUCCEEDED,
            )
            .correlate(CollectionItem)
        )
        query = query.where(or_(~done, CollectionItem.error_code.is_not(None)))
    return session.scalars(query).all()


def fail(session: Session, bulk_id: str, code: str, message: str) -> None:
    """Ends a bulk job that cannot start."""
    bulk = lock(session, bulk_id)
    if bulk.state in ENDED:
        return
    if bulk.cancel_requested_at is not None:
        return _close(
            session, bulk, BulkState.CANCELLED, "cancelled", "The bulk job was cancelled before it started."
        )
    return _close(session, bulk, BulkState.FAILED, code, message)


# From items to jobs -----------------------------------------------------------------------------------


def pending(session: Session, bulk_id: str, window: int, most: int = BATCH) -> list[BulkItem]:
    """The next items that need a job, as many as the window has room for; locked.

    The window counts items, so with documents in parts more jobs may be under way.
    """
    under_way = session.scalar(
        select(func.count())
        .select_from(BulkItem)
        .outerjoin(Job, Job.id == BulkItem.job_id)
        .where(
            BulkItem.bulk_id == bulk_id,
            or_(BulkItem.state == "mapped", and_(BulkItem.state == "submitted", ~_JOB_ENDED)),
        )
    )
    room = min(most, window - (under_way or 0))
    if room <= 0:
        return []
    query = select(BulkItem).where(BulkItem.bulk_id == bulk_id, BulkItem.state == "pending")
    return list(session.scalars(query.order_by(BulkItem.seq).limit(room).with_for_update()))


def refuse_pending(session: Session, bulk_id: str, refused: Refused) -> None:
    """Fails the items that still wait for a job, as none can be created."""
    values = {"state": "failed", "error_code": refused.code, "error_message": refused.message}
    _each_pending(session, bulk_id, values)


def _each_pending(session: Session, bulk_id: str, values: dict[str, str]) -> None:
    waiting = and_(BulkItem.bulk_id == bulk_id, BulkItem.state == "pending")
    session.execute(update(BulkItem).where(waiting).values(values))


# Parts of documents -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mapped:
    """A document in parts whose jobs have all ended, with their states and answers in order."""

    seq: int
    path: str
    states: list[str]
    answers: list[list[dict[str, str]]]


def add_part(session: Session, item: BulkItem, part: int, job_id: str) -> None:
    """Records the job that reads a part of the item's document."""
    key = {"bulk_id": item.bulk_id, "seq": item.seq, "part": part}
    session.execute(insert(BulkPart).values(**key, tenant_id=item.tenant_id, job_id=job_id))


def parts_of(session: Session, item: BulkItem) -> set[int]:
    """The parts that have a job; after a retry, only those that succeeded."""
    query = select(BulkPart.part).where(BulkPart.bulk_id == item.bulk_id, BulkPart.seq == item.seq)
    return set(session.scalars(query))


def mapped(session: Session, bulk_id: str, limit: int = BATCH) -> list[Mapped]:
    """Documents whose parts' jobs have all ended."""
    part_job = aliased(Job)
    unfinished = exists().where(
        BulkPart.bulk_id == BulkItem.bulk_id,
        BulkPart.seq == BulkItem.seq,
        part_job.id == BulkPart.job_id,
        part_job.state.not_in(TERMINAL),
    )
    query = select(BulkItem).where(BulkItem.bulk_id == bulk_id, BulkItem.state == "mapped", ~unfinished)
    found = []
    for item in session.scalars(query.order_by(BulkItem.seq).limit(limit)):
        rows = session.execute(
            select(Job.state, Result.answers)
            .join(BulkPart, BulkPart.job_id == Job.id)
            .outerjoin(Result, Result.job_id == Job.id)
            .where(BulkPart.bulk_id == bulk_id, BulkPart.seq == item.seq)
            .order_by(BulkPart.part)
        ).all()
        found.append(Mapped(item.seq, item.path, [row[0] for row in rows], [row[1] or [] for row in rows]))
    return found


def item(session: Session, bulk_id: str, seq: int, state: str) -> BulkItem | None:
    """The item, locked, if it is still in this state."""
    query = select(BulkItem).where(BulkItem.bulk_id == bulk_id, BulkItem.seq == seq, BulkItem.state == state)
    return session.scalars(
        query.with_for_update(), execution_options={"populate_existing": True}
    ).one_or_none()


# To the end -------------------------------------------------------------------------------------------


def move(session: Session, bulk_id: str, before: BulkState, after: BulkState) -> bool:
    """Moves a bulk job from one state to the next; False if it had left the first."""
    bulk = lock(session, bulk_id)
    if bulk.state != before:
        return False
    bulk.state = after
    return True


def wait_for(session: Session, bulk_id: str, reason: Refused | None) -> None:
    """Records why a bulk job is waiting, or clears that."""
    bulk = lock(session, bulk_id)
    bulk.error_code, bulk.error_message = (reason.code, reason.message) if reason else (None, None)


def cancel_rest(session: Session, bulk_id: str) -> bool:
    """Cancels the unfinished documents; True once nothing is left that could run."""
    bulk = lock(session, bulk_id)  # so that no conductor adds jobs in the meantime
    _each_pending(session, bulk_id, {"state": "cancelled"})
    query = select(Job.id).where(Job.bulk_id == bulk_id, ~_JOB_ENDED, Job.state != State.CANCELLING)
    for job_id in session.scalars(query.order_by(Job.id).limit(BATCH)).all():
        jobs.cancel(session, bulk.tenant_id, job_id)
    left = session.scalar(select(exists().where(Job.bulk_id == bulk_id, ~_JOB_ENDED)))
    if not left:
        values = {"state": "cancelled"}
        lost = and_(BulkItem.bulk_id == bulk_id, BulkItem.state == "mapped")
        session.execute(update(BulkItem).where(lost).values(values))
    return not left


def end(session: Session, bulk_id: str, bundle_key: str, delivery_error: str | None) -> None:
    """Ends a bulk job whose bundle is written; its final state follows from those of its items."""
    bulk = lock(session, bulk_id)
    if bulk.state != BulkState.BUNDLING:
        return
    bulk.bundle_key = bundle_key
    bulk.delivery_error = delivery_error
    if bulk.destination is not None and delivery_error is None:
        bulk.delivered_at = func.now()
    found = repository.count(session, bulk)
    done, all_items = found.get("succeeded", 0), sum(found.values())
    if bulk.cancel_requested_at is not None:
        _close(
            session,
            bulk,
            BulkState.CANCELLED,
            "cancelled",
            "The bulk job was cancelled; earlier results are kept.",
        )
    elif done or not all_items or _all_known_unreadable(session, bulk):
        _close(session, bulk, BulkState.SUCCEEDED, None, None)
    else:
        _close(session, bulk, BulkState.FAILED, "nothing_succeeded", "None of the documents succeeded.")


def _all_known_unreadable(session: Session, bulk: Bulk) -> bool:
    """Whether every item is a file that an earlier bulk job could not read either."""
    if not bulk.only_changed:
        return False
    before, earlier = aliased(Bulk), aliased(BulkItem)
    known = exists().where(
        before.collection_id == bulk.collection_id,
        before.id < bulk.id,
        earlier.bulk_id == before.id,
        earlier.path == BulkItem.path,
        earlier.error_code == BulkItem.error_code,
        earlier.document_id.is_(None),
    )
    new = or_(BulkItem.document_id.is_not(None), ~known.correlate(BulkItem))
    return not session.scalar(select(exists().where(BulkItem.bulk_id == bulk.id, new)))


def _close(session: Session, bulk: Bulk, state: BulkState, code: str | None, message: str | None) -> None:
    bulk.state, bulk.error_code, bulk.error_message = state, code, message
    bulk.ended_at = func.now()
    counts = repository.count(session, bulk)
    payload = {"bulk": bulk.id, "state": state.value, "counts": counts, "error": code, "metadata": bulk.tags}
    outbox.add_event(session, bulk.tenant_id, None, f"bulk.{state}", payload)
