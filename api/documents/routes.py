"""Documents: uploaded as a stream, checked on the way, stored as blobs."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool

from api.context import CallerDep, Context, ContextDep
from api.documents.schemas import DocumentOut
from api.http.blob_writer import BlobWriter
from api.http.uploads import receive, refuse_declared_size
from api.problems import documented
from store import documents
from store.tables.documents import Document

router = APIRouter(prefix="/v1/documents", tags=["documents"])

_UPLOAD = {
    "requestBody": {
        "required": True,
        "description": "The text itself, or a form with one part named `file`. UTF-8 text or Markdown.",
        "content": {
            "text/plain": {
                "schema": {"type": "string", "format": "binary"},
                "example": "This agreement is made …",
            },
            "text/markdown": {"schema": {"type": "string", "format": "binary"}, "example": "# Agreement\n…"},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
}


def document_out(row: Document) -> DocumentOut:
    """A row in the API's form."""
    return DocumentOut(
        id=row.id,
        sha256=row.sha256,
        bytes=row.bytes,
        media_type=row.media_type,
        name=row.filename,
        created_at=row.created_at,
    )


@router.post(
    "",
    status_code=201,
    openapi_extra=_UPLOAD,
    responses=documented(400, 401, 408, 413, 422, 507),
)
async def upload(
    request: Request,
    context: ContextDep,
    caller: CallerDep,
    name: Annotated[
        str | None, Query(description="A label. Default: the file name of a form.", max_length=255)
    ] = None,
) -> DocumentOut:
    """Upload a document. It is streamed to storage, and may be as large as the service's limit."""
    limit = context.settings.max_upload_bytes
    refuse_declared_size(request, limit)
    document_id = documents.new_document_id()
    async with BlobWriter(context.blobs, documents.blob_key_of(caller.tenant_id, document_id)) as blob:
        facts = await receive(request, limit, blob.write, name)
    return await run_in_threadpool(
        _record, context, caller.tenant_id, document_id, blob, facts.media_type, facts.name
    )


def _record(
    context: Context, tenant_id: str, document_id: str, blob: BlobWriter, media_type: str, name: str
) -> DocumentOut:
    with context.database.session() as session:
        try:
            row = documents.create(
                session,
                tenant_id,
                document_id,
                sha256=blob.sha256,
                size=blob.size,
                media_type=media_type,
                filename=name,
            )
        except BaseException:
            context.blobs.delete(documents.blob_key_of(tenant_id, document_id))
            raise
        return document_out(row)


@router.get("/{document_id}", responses=documented(401, 404))
def show(document_id: str, context: ContextDep, caller: CallerDep) -> DocumentOut:
    """Get a document's metadata; its text is not returned."""
    with context.database.session() as session:
        return document_out(documents.get(session, caller.tenant_id, document_id))
