"""Collections: named sets of documents. With a source, they hold the files of its last refresh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import documents
from store.bulk import ENDED, wake
from store.collections import files
from store.errors import Conflict, NotFound
from store.ids import new_id
from store.tables.bulk import Bulk
from store.tables.collections import Collection, CollectionItem
from store.tables.schedules import Schedule
from store.tenancy import get_by_id_or_name, scoped


class CollectionExists(Conflict):
    """The tenant has a collection of this name."""

    code = "collection_exists"


class CollectionInUse(Conflict):
    """A bulk job over the collection has not ended, or a schedule runs over it."""

    code = "collection_in_use"


class CollectionLive(Conflict):
    """Documents of a collection with a source cannot be added or removed by hand."""

    code = "collection_live"


@dataclass(frozen=True)
class Counts:
    """How many documents a collection has."""

    documents: int
    unreadable: int  # files that exist but could not be read
    deleted: int


def create(
    session: Session, tenant_id: str, name: str, source: str | None = None, glob: str | None = None
) -> Collection:
    """A new collection; with a source, the conductor refreshes it as soon as it can.

    Raises CollectionExists.
    """
    values = {"id": new_id("col"), "tenant_id": tenant_id, "name": name, "source": source, "glob": glob}
    statement = insert(Collection).values(values).on_conflict_do_nothing().returning(Collection)
    row = session.scalars(statement).one_or_none()
    if row is None:
        raise CollectionExists(f"A collection named '{name}' already exists.")
    if source is not None:
        refresh(session, row)
    return row


def of_source(session: Session, tenant_id: str, source: str, glob: str | None) -> Collection:
    """The collection of a source, created under the source's URL as its name if there is none.

    Raises CollectionExists if another collection has that name.
    """
    query = scoped(Collection, tenant_id).where(Collection.source == source)
    query = query.where(Collection.glob.is_not_distinct_from(glob)).order_by(Collection.id)
    found = session.scalars(query).first()
    if found is not None:
        return found
    try:
        return create(session, tenant_id, f"{source} {glob}" if glob else source, source, glob)
    except CollectionExists:  # created concurrently, or the name belongs to another one
        found = session.scalars(query).first()
        if found is None:
            raise
        return found


def get(session: Session, tenant_id: str, id_or_name: str) -> Collection:
    """Raises NotFound."""
    return get_by_id_or_name(session, Collection, tenant_id, "col", id_or_name)


def page(session: Session, tenant_id: str, *, after: str | None = None, limit: int = 20) -> list[Collection]:
    """A page, by name; `after` is the last name of the previous page."""
    query = scoped(Collection, tenant_id).order_by(Collection.name).limit(limit)
    if after is not None:
        query = query.where(Collection.name > after)
    return list(session.scalars(query))


def counts(session: Session, collection: Collection) -> Counts:
    """The numbers of its present and past documents."""
    there = CollectionItem.deleted_at.is_(None)
    unreadable = CollectionItem.error_code.is_not(None)
    row = session.execute(
        _items_of(collection).with_only_columns(
            func.count().filter(there, CollectionItem.document_id.is_not(None), ~unreadable),
            func.count().filter(there, unreadable),
            func.count().filter(~there),
        )
    ).one()
    return Counts(*row)


def _items_of(collection: Collection) -> Select[CollectionItem]:
    return scoped(CollectionItem, collection.tenant_id).where(CollectionItem.collection_id == collection.id)


def items(
    session: Session,
    tenant_id: str,
    collection_id: str,
    *,
    deleted: bool = False,
    after: str | None = None,
    limit: int = 20,
) -> list[CollectionItem]:
    """A page of its documents, or of the deleted ones, by path; `after` is the previous page's last path."""
    query = scoped(CollectionItem, tenant_id).where(CollectionItem.collection_id == collection_id)
    gone = CollectionItem.deleted_at.is_not(None)
    query = query.where(gone if deleted else ~gone).order_by(CollectionItem.path).limit(limit)
    if after is not None:
        query = query.where(CollectionItem.path > after)
    return list(session.scalars(query))


def add(session: Session, collection: Collection, members: Sequence[tuple[str, str]]) -> None:
    """Adds documents, given by path and id; an earlier one under the same path is replaced.

    Raises CollectionLive, and NotFound for a document that is not the tenant's.
    """
    _refuse_live(collection)
    known = documents.named(session, collection.tenant_id, {document for _, document in members})
    for path, document in members:
        files.put(session, collection.id, collection.tenant_id, path, known[document])


def add_unread(session: Session, collection: Collection, path: str, code: str, message: str) -> None:
    """Records that a file could not be read; its document is kept. Raises CollectionLive."""
    _refuse_live(collection)
    files.put_unread(session, collection.id, collection.tenant_id, path, code, message)


def remove(session: Session, collection: Collection, path: str) -> None:
    """Removes a document from the collection, without deleting it. Raises NotFound, CollectionLive."""
    _refuse_live(collection)
    statement = (
        update(CollectionItem)
        .where(
            CollectionItem.collection_id == collection.id,
            CollectionItem.path == path,
            CollectionItem.deleted_at.is_(None),
        )
        .values(deleted_at=func.now())
        .returning(CollectionItem.path)
    )
    if session.scalar(statement) is None:
        raise NotFound(f"The collection has no document '{path}'.")


def drop(session: Session, collection: Collection) -> None:
    """Deletes the collection, but neither its documents nor results of bulk jobs. Raises CollectionInUse."""
    active = exists().where(Bulk.collection_id == collection.id, Bulk.state.not_in(ENDED))
    if session.scalar(select(active)):
        raise CollectionInUse("A bulk job over this collection has not ended; cancel it first.")
    planned = scoped(Schedule, collection.tenant_id).where(
        Schedule.deleted_at.is_(None), Schedule.template["collection_id"].astext == collection.id
    )
    for schedule in session.scalars(planned.limit(1)):
        raise CollectionInUse(f"The schedule '{schedule.name}' runs over this collection; delete it first.")
    session.execute(delete(Collection).where(Collection.id == collection.id))


def refresh(session: Session, collection: Collection) -> None:
    """Asks the conductor to refresh the collection from its source."""
    collection.refresh_requested_at = func.now()
    session.flush()
    wake(session)


def _refuse_live(collection: Collection) -> None:
    if collection.source is not None:
        raise CollectionLive("This collection mirrors its source; change the files there, then refresh it.")
