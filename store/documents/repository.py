"""Documents: a row for each upload; the text itself is a blob."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.errors import NotFound
from store.ids import new_id
from store.tables.documents import Document
from store.tenancy import get_scoped, scoped


def new_document_id() -> str:
    """An id for a document about to be uploaded, which its blob is named after."""
    return new_id("doc")


def blob_key_of(tenant_id: str, document_id: str) -> str:
    """The key of a document's text in the blob store."""
    return f"documents/{tenant_id}/{document_id}"


def create(
    session: Session,
    tenant_id: str,
    document_id: str,
    *,
    sha256: str,
    size: int,
    media_type: str,
    filename: str | None,
) -> Document:
    """Adds the row of a document whose blob is already written. `size` is in bytes."""
    row = Document(
        id=document_id,
        tenant_id=tenant_id,
        sha256=sha256,
        bytes=size,
        media_type=media_type,
        filename=filename,
        blob_key=blob_key_of(tenant_id, document_id),
    )
    session.add(row)
    session.flush()
    return row


def get(session: Session, tenant_id: str, document_id: str) -> Document:
    """Raises NotFound."""
    return get_scoped(session, Document, tenant_id, id=document_id)


def named(session: Session, tenant_id: str, ids: Collection[str]) -> dict[str, Document]:
    """The tenant's documents by id. Raises NotFound if one is missing."""
    found = {row.id: row for row in session.scalars(scoped(Document, tenant_id).where(Document.id.in_(ids)))}
    for one in ids:
        if one not in found:
            raise NotFound(f"There is no document {one}.")
    return found


def of_job(session: Session, document_id: str) -> Document:
    """The document of a job, for the worker that holds the job and so needs no tenant."""
    return session.scalars(select(Document).where(Document.id == document_id)).one()
