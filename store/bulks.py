"""Bulk jobs as their owners see them: begun, looked at, cancelled, retried.

The conductor (`worker.conductor`) takes them from state to state with `store.bulk_steps`:
`listing → running → digesting → bundling → succeeded | failed`, and `cancelling → cancelled`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from store import jobs
from store.bulk_tables import Bulk, BulkItem, BulkPart
from store.errors import StoreError
from store.ids import new_id
from store.intake import Ask, Owner
from store.models import Document, Job
from store.states import TERMINAL, State
from store.tenants import get_scoped, scoped

CHANNEL = "palimpsest_bulks"
ENDED = frozenset({"succeeded", "failed", "cancelled"})


class NotRetryable(StoreError):
    """Nothing of the bulk job can be tried again now."""

    code = "not_retryable"


@dataclass(frozen=True)
class NewBulk:
    """What is to be done with which documents; all of it already validated.

    Attributes:
        collection_id: whose documents; None = those of `documents`.
        documents: (path, document id) pairs, the paths unique.
        only_changed: only what is new or changed since the last bulk job over the collection succeeded.
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
    """Begins a bulk job in the caller's transaction and wakes the conductor. Raises NotFound."""
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
        ids = [document for _, document in new.documents]
        query = scoped(Document, owner.tenant_id).where(Document.id.in_(ids))
        known = {one.id: one for one in session.scalars(query)}
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
    """Tells the conductor, once this transaction has committed, that there is something to do."""
    session.execute(text(f"NOTIFY {CHANNEL}"))


def ask_to_json(ask: Ask) -> dict[str, Any]:
    """As it is stored; a deadline is not part of it."""
    values = asdict(ask)
    del values["deadline_at"]
    return values


def ask_from_json(values: dict[str, Any], deadline_at: datetime | None = None) -> Ask:
    """The stored ask, with a deadline."""
    return Ask(**{**values, "questions": tuple(values["questions"]), "deadline_at": deadline_at})


def cancel(session: Session, tenant_id: str, bulk_id: str) -> Bulk:
    """Cancels a bulk job: the conductor ends what it has begun. Raises NotFound.

    Calling it again, or on one that has ended, changes nothing.
    """
    query = scoped(Bulk, tenant_id).where(Bulk.id == bulk_id).with_for_update()
    row = session.scalars(query).one_or_none() or get_scoped(session, Bulk, tenant_id, id=bulk_id)
    if row.state not in ENDED and row.state != "cancelling":
        row.state, row.cancel_requested_at = "cancelling", func.now()
        wake(session)
    session.flush()
    session.refresh(row)
    return row
