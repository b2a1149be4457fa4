"""Turns a valid request into a queued job, once per Idempotency-Key."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack

from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.http.blob_writer import storing
from api.http.idempotency import fingerprint
from api.jobs.schemas import JobCreate, JobOut
from api.problems import Problem
from store import documents, idempotency, jobs
from store.billing import budgets
from store.billing.budgets import BudgetState
from store.jobs import admission
from store.jobs.admission import Owner
from store.tables.documents import Document
from store.tables.jobs import Job

ROUTE = "POST /v1/jobs"


def owner_of(caller: Caller) -> Owner:
    """The caller as the owner of jobs."""
    return Owner(caller.tenant_id, caller.key_id, caller.project)


def blocking_budget(context: Context, caller: Caller) -> BudgetState | None:
    """The crossed budget that blocks the caller's jobs, if any.

    In a transaction of its own: the event that a budget is crossed must survive a refusal because of it.
    """
    with context.database.session() as session:
        return budgets.blocking_budget(session, caller.tenant_id, caller.project, caller.key_id)


def submit(
    context: Context,
    caller: Caller,
    body: JobCreate,
    raw: bytes,
    key: str | None,
    shown: Callable[[Job], JobOut],
) -> tuple[JobOut, bool]:
    """Queues a job and returns it in the API's form; True if it is a replay of an earlier request with `key`.

    Raises Problem, Refused, NotFound for a document that is not the caller's, and IdempotencyMismatch.
    """
    owner, settings = owner_of(caller), context.settings
    spent = blocking_budget(context, caller)
    with ExitStack() as undo, context.database.session() as session:
        if key is not None:
            hours = settings.idempotency_hours
            before = idempotency.begin(session, caller.tenant_id, ROUTE, key, fingerprint(raw), hours)
            if before is not None:
                return JobOut.model_validate(before.body), True
        admitted = admission.admit(session, settings, owner, body.ask(body.deadline))
        held_by = admission.enforce_budget(spent)
        document = _document(context, caller, session, body, undo)
        new = admission.new_job(admitted, settings, owner, document.id, held_by)
        answer = shown(jobs.create(session, caller.tenant_id, new))
        if key is not None:
            idempotency.complete(session, caller.tenant_id, ROUTE, key, 201, answer.model_dump(mode="json"))
        # From here only the commit can fail, perhaps after it took effect: then rather keep an unused blob.
        undo.pop_all()
    return answer, False


def _document(
    context: Context, caller: Caller, session: Session, body: JobCreate, undo: ExitStack
) -> Document:
    if body.document_id is not None:
        document = documents.get(session, caller.tenant_id, body.document_id)
        limit = context.settings.max_upload_bytes
        if document.bytes > limit:
            detail = f"The document has {document.bytes:,} bytes; the limit is {limit:,}."
            raise Problem(422, "document_too_large", detail, field="document_id", max_bytes=limit)
        return document
    text = (body.text or "").encode()
    limit = context.settings.max_inline_bytes
    if len(text) > limit:
        detail = (
            f"Inline text is limited to {limit:,} bytes; upload longer documents with POST /v1/documents."
        )
        raise Problem(413, "text_too_large", detail, field="text", max_bytes=limit)
    if not text.strip(b" \t\r\n\f\v"):
        raise Problem(422, "document_empty", "The document contains only white space.", field="text")
    document_id = documents.new_document_id()
    key = documents.blob_key_of(caller.tenant_id, document_id)
    undo.callback(context.blobs.delete, key)
    with storing(), context.blobs.create(key) as file:
        file.write(text)
    return documents.create(
        session,
        caller.tenant_id,
        document_id,
        sha256=hashlib.sha256(text).hexdigest(),
        size=len(text),
        media_type="text/plain",
        filename=None,
    )
