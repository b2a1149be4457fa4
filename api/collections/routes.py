"""Collections: named sets of documents, or of the files in an external folder."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from api.collections.schemas import (
    CollectionCreate,
    CollectionItemOut,
    CollectionItemPage,
    CollectionOut,
    CollectionPage,
    DocumentPath,
    MembersAdd,
)
from api.context import CallerDep, ContextDep
from api.http.cursors import Cursor, LargeLimit, Pager
from api.problems import documented
from api.schemas import ErrorOut
from store import collections
from store.tables.collections import Collection, CollectionItem

router = APIRouter(prefix="/v1/collections", tags=["bulk"])


def _out(session: Session, row: Collection) -> CollectionOut:
    counts = collections.counts(session, row)
    return CollectionOut(
        id=row.id,
        name=row.name,
        source=row.source,
        glob=row.glob,
        documents=counts.documents,
        unreadable=counts.unreadable,
        deleted=counts.deleted,
        created_at=row.created_at,
        refreshing=row.refresh_requested_at is not None,
        refreshed_at=row.refreshed_at,
        refresh_error=row.refresh_error,
    )


def _item_out(row: CollectionItem) -> CollectionItemOut:
    return CollectionItemOut(
        path=row.path,
        document_id=row.document_id,
        sha256=row.sha256,
        error=ErrorOut(code=row.error_code, message=row.error_message or "") if row.error_code else None,
        added_at=row.added_at,
        changed_at=row.changed_at,
        seen_at=row.seen_at,
        deleted_at=row.deleted_at,
    )


@router.post("", status_code=201, responses=documented(400, 401, 409, 422))
def create(
    body: CollectionCreate, request: Request, response: Response, context: ContextDep, caller: CallerDep
) -> CollectionOut:
    """Create a collection. With a source, it is filled in the background."""
    if body.source is not None:
        context.sources.folder(caller.tenant_id, body.source)
    with context.database.session() as session:
        row = collections.create(session, caller.tenant_id, body.name, body.source, body.glob)
        response.headers["location"] = request.url_for("show_collection", collection=row.id).path
        return _out(session, row)


@router.get("", responses=documented(401, 422))
def index(
    context: ContextDep, caller: CallerDep, cursor: Cursor = None, limit: LargeLimit = 20
) -> CollectionPage:
    """List your collections, by name."""
    pager = Pager(context.settings.pepper, f"collections {caller.tenant_id}")
    with context.database.session() as session:
        rows = collections.page(session, caller.tenant_id, after=pager.key(cursor), limit=limit + 1)
        page, after = pager.cut(rows, limit, lambda row: [row.name])
        data = [_out(session, row) for row in page]
    return CollectionPage(data=data, has_more=after is not None, next_cursor=after)


@router.post("/{collection:path}/refresh", status_code=202, responses=documented(401, 404))
def refresh(collection: str, context: ContextDep, caller: CallerDep) -> CollectionOut:
    """Refresh the collection from its source. Bulk jobs do so before they start."""
    with context.database.session() as session:
        row = collections.get(session, caller.tenant_id, collection)
        if row.source is not None:
            collections.refresh(session, row)
        return _out(session, row)


@router.get("/{collection:path}/documents", responses=documented(401, 404, 422))
def documents(
    collection: str,
    context: ContextDep,
    caller: CallerDep,
    deleted: Annotated[bool, Query(description="List deleted documents instead of present ones.")] = False,
    cursor: Cursor = None,
    limit: LargeLimit = 20,
) -> CollectionItemPage:
    """List the documents of a collection by path, as of its last refresh."""
    with context.database.session() as session:
        found = collections.get(session, caller.tenant_id, collection)
        pager = Pager(context.settings.pepper, f"collection documents {found.id} {deleted}")
        last = pager.key(cursor)
        rows = collections.items(
            session, caller.tenant_id, found.id, deleted=deleted, after=last, limit=limit + 1
        )
    page, after = pager.cut(rows, limit, lambda row: [row.path])
    data = [_item_out(row) for row in page]
    return CollectionItemPage(data=data, has_more=after is not None, next_cursor=after)


@router.post("/{collection:path}/documents", responses=documented(400, 401, 404, 409, 422))
def add(collection: str, body: MembersAdd, context: ContextDep, caller: CallerDep) -> CollectionOut:
    """Add documents. An earlier one under the same path is replaced."""
    with context.database.session() as session:
        found = collections.get(session, caller.tenant_id, collection)
        named = [(one.path or one.document_id, one.document_id) for one in body.documents if one.document_id]
        collections.add(session, found, named)
        for one in body.documents:
            if one.error and one.path:
                collections.add_unread(session, found, one.path, one.error.code, one.error.message)
        return _out(session, found)


@router.delete("/{collection:path}/documents", status_code=204, responses=documented(401, 404, 409))
def remove(
    collection: str, path: Annotated[DocumentPath, Query()], context: ContextDep, caller: CallerDep
) -> None:
    """Remove a document from the collection, without deleting it."""
    with context.database.session() as session:
        found = collections.get(session, caller.tenant_id, collection)
        collections.remove(session, found, path)


# Last: a name may contain slashes, so these routes also match the paths of those above.


@router.get("/{collection:path}", name="show_collection", responses=documented(401, 404))
def show(collection: str, context: ContextDep, caller: CallerDep) -> CollectionOut:
    """Get a collection by its id or name."""
    with context.database.session() as session:
        return _out(session, collections.get(session, caller.tenant_id, collection))


@router.delete("/{collection:path}", status_code=204, responses=documented(401, 404, 409))
def delete(collection: str, context: ContextDep, caller: CallerDep) -> None:
    """Delete a collection. Its documents, and the results of bulk jobs, are kept."""
    with context.database.session() as session:
        collections.drop(session, collections.get(session, caller.tenant_id, collection))
