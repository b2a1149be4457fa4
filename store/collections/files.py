"""The files of a collection, as the conductor last found them in its source or a client uploaded them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Text, any_, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from store.sources.listing import Entry
from store.tables.collections import Collection, CollectionItem
from store.tables.documents import Document
from store.tenancy import scoped


def to_refresh(session: Session) -> Sequence[str]:
    """The ids of collections to refresh, the longest waiting first."""
    query = select(Collection.id).where(Collection.refresh_requested_at.is_not(None))
    return session.scalars(query.order_by(Collection.refresh_requested_at)).all()


def record_listing(session: Session, collection: Collection, entries: Sequence[Entry]) -> list[Entry]:
    """Records which files exist, and returns those that must be read.

    Missing files are marked as deleted. A file whose fingerprint has not changed is not read again.
    """
    known = {
        row.path: row
        for row in session.scalars(
            scoped(CollectionItem, collection.tenant_id).where(CollectionItem.collection_id == collection.id)
        )
    }
    there = {entry.path for entry in entries}
    gone = [path for path, row in known.items() if path not in there and row.deleted_at is None]
    if gone:
        session.execute(
            update(CollectionItem)
            .where(CollectionItem.collection_id == collection.id, _among(gone))
            .values(deleted_at=func.now())
        )
    same, fresh = list[str](), list[Entry]()
    for entry in entries:
        row = known.get(entry.path)
        settled = row is not None and entry.fingerprint is not None and row.fingerprint == entry.fingerprint
        if settled and (row.document_id or row.error_code):  # type: ignore[union-attr]
            same.append(entry.path)
        else:
            fresh.append(entry)
    if same:
        session.execute(
            update(CollectionItem)
            .where(CollectionItem.collection_id == collection.id, _among(same))
            .values(seen_at=func.now(), deleted_at=None)
        )
    return fresh


def _among(paths: list[str]) -> ColumnElement[bool]:
    """One array instead of a parameter per path: a statement takes at most 65,535 parameters."""
    return CollectionItem.path == any_(literal(paths, ARRAY(Text)))


def put(
    session: Session,
    collection_id: str,
    tenant_id: str,
    path: str,
    document: Document,
    fingerprint: str | None = None,
) -> None:
    """Puts a document under a path, in place of an earlier one."""
    row: dict[str, Any] = {
        "document_id": document.id,
        "sha256": document.sha256,
        "fingerprint": fingerprint,
        "error_code": None,
        "error_message": None,
        "changed_at": func.now(),
    }
    _upsert(session, collection_id, tenant_id, path, row)


def record_unchanged(
    session: Session, collection_id: str, tenant_id: str, path: str, fingerprint: str | None
) -> None:
    """Records that the file was read again and has not changed."""
    row = {"fingerprint": fingerprint, "error_code": None, "error_message": None}
    _upsert(session, collection_id, tenant_id, path, row)


def put_error(
    session: Session,
    collection_id: str,
    tenant_id: str,
    path: str,
    fingerprint: str | None,
    code: str,
    message: str,
) -> None:
    """Records that the file was read and is not a document."""
    _put_error(
        session, collection_id, tenant_id, path, fingerprint, code, message, document_id=None, sha256=None
    )


def put_unread(
    session: Session, collection_id: str, tenant_id: str, path: str, code: str, message: str
) -> None:
    """Records that the file exists but could not be read. Its document is kept, as it may be unchanged."""
    _put_error(session, collection_id, tenant_id, path, None, code, message)


def _put_error(
    session: Session,
    collection_id: str,
    tenant_id: str,
    path: str,
    fingerprint: str | None,
    code: str,
    message: str,
    **more: None,
) -> None:
    row: dict[str, Any] = {
        "fingerprint": fingerprint,
        "error_code": code,
        "error_message": message,
        "changed_at": func.now(),
        **more,
    }
    _upsert(session, collection_id, tenant_id, path, row)


def get_item(session: Session, collection_id: str, path: str) -> CollectionItem | None:
    """The item under a path, if there is one."""
    return session.get(CollectionItem, (collection_id, path))


def record_refresh(
    session: Session, collection_id: str, asked_at: datetime | None, error: str | None
) -> None:
    """Records the end of the refresh requested at `asked_at`; `error` says why it failed."""
    row = session.get_one(Collection, collection_id, populate_existing=True)
    row.refresh_error = error
    if error is None:
        row.refreshed_at = func.now()
    if row.refresh_requested_at == asked_at:  # otherwise another one was requested since
        row.refresh_requested_at = None


def _upsert(session: Session, collection_id: str, tenant_id: str, path: str, row: Mapping[str, Any]) -> None:
    """Marks the file as existing and updates these columns."""
    row = {**row, "seen_at": func.now(), "deleted_at": None}
    key = {"collection_id": collection_id, "path": path}
    statement = insert(CollectionItem).values(**key, tenant_id=tenant_id, **row)
    session.execute(statement.on_conflict_do_update(index_elements=["collection_id", "path"], set_=row))
