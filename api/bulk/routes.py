"""Bulk jobs: one task for every document of a set, with a bundle of results at the end."""

import dataclasses
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from api.bulk.schemas import (
    BulkCreate,
    BulkItemOut,
    BulkItemPage,
    BulkOut,
    BulkPage,
    BulkProgress,
    SpentOut,
)
from api.bulk.submission import begin
from api.context import CallerDep, Context, ContextDep
from api.http.blob_writer import chunks
from api.http.cursors import Cursor, LargeLimit, Limit, Pager
from api.http.idempotency import IdempotencyKey, RawBody, fingerprint
from api.jobs.result_schemas import AnswerOut, WarningOut
from api.jobs.schemas import work_out
from api.jobs.submission import blocking_budget
from api.problems import Problem, documented
from api.schemas import ErrorOut
from store import bulk, idempotency
from store.bulk import BulkState, results
from store.bulk import submission as bulk_terms
from store.bulk.results import Line, Spent
from store.errors import NotFound
from store.tables.bulk import Bulk
from store.tables.job_states import TERMINAL

router = APIRouter(prefix="/v1/bulk", tags=["bulk"])

ROUTE = "POST /v1/bulk"
File = Literal["documents.jsonl", "digest.md", "totals.json"]
FILES: dict[File, str] = {
    "documents.jsonl": "application/x-ndjson",
    "digest.md": "text/markdown",
    "totals.json": "application/json",
}


def bulk_out(session: Session, row: Bulk) -> BulkOut:
    """A row in the API's form."""
    states = bulk.count(session, row)
    asked = work_out(row.ask)
    requested = {name: value for name, value in asked.items() if value not in ([], {})}
    return BulkOut(
        id=row.id,
        state=BulkState(row.state),
        collection_id=row.collection_id,
        collection=row.collection_name,
        job=requested,
        strategy=row.strategy,  # type: ignore[arg-type]
        only_changed=row.only_changed,
        digest=row.digest,
        to=row.destination,
        metadata=row.tags,
        round=row.round,
        progress=BulkProgress(
            documents=sum(states.values()),
            states=states,
            done=sum(count for state, count in states.items() if state in TERMINAL),
        ),
        spent=[_money(one) for one in results.all_spent(session, row.tenant_id, row.id)],
        digest_job_id=row.digest_job_id,
        bundle=list(FILES) if row.bundle_key else None,
        delivered_at=row.delivered_at,
        delivery_error=row.delivery_error,
        error=_error(row.error_code, row.error_message),
        created_at=row.created_at,
        listed_at=row.listed_at,
        ended_at=row.ended_at,
    )


def _money(spent: Spent) -> SpentOut:
    values = dataclasses.asdict(spent)
    return SpentOut(
        **{name: values[name] for name in ("currency", "cost", "device_seconds", "tokens_document")},
        tokens_generated=spent.tokens_generated,
        saving_allocated=spent.allocated_saving,
        saving_realised=spent.realised_saving,
        peak_bytes_max=spent.peak_bytes,
        dense_bytes_max=spent.dense_bytes,
    )


def _error(code: str | None, message: str | None) -> ErrorOut | None:
    return ErrorOut(code=code, message=message or "") if code else None


def _item_out(line: Line) -> BulkItemOut:
    usage = line.usage or {}
    return BulkItemOut(
        seq=line.seq,
        path=line.path,
        document_id=line.document_id,
        sha256=line.sha256,
        state=line.state,
        job_id=line.job_id,
        parts=line.parts or None,
        policy=line.policy,
        policy_reason=line.policy_reason,
        scorer=line.scorer,
        reading=usage.get("reading"),
        answers=[AnswerOut.model_validate(answer) for answer in line.answers],
        warnings=[WarningOut.model_validate(warning) for warning in usage.get("warnings", ())],
        spent=[_money(one) for one in line.spent],
        error=_error(line.error_code, line.error_message),
    )


@router.post("", status_code=201, responses=documented(400, 401, 402, 404, 422))
def create(
    body: BulkCreate,
    raw: RawBody,
    request: Request,
    response: Response,
    context: ContextDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey = None,
) -> BulkOut:
    """Start a bulk job: a job per document, then a bundle with a line per document and a digest."""
    spent = blocking_budget(context, caller)
    with context.database.session() as session:
        answer = _replayed(context, session, caller.tenant_id, idempotency_key, raw)
        if answer is not None:
            response.headers["idempotent-replayed"] = "true"
        else:
            answer = bulk_out(session, begin(context, caller, session, body, spent))
            if idempotency_key is not None:
                shown = answer.model_dump(mode="json")
                idempotency.complete(session, caller.tenant_id, ROUTE, idempotency_key, 201, shown)
    response.headers["location"] = request.url_for("show_bulk", bulk_id=answer.id).path
    return answer


def _replayed(
    context: Context, session: Session, tenant_id: str, key: str | None, raw: bytes
) -> BulkOut | None:
    if key is None:
        return None
    hours = context.settings.idempotency_hours
    before = idempotency.begin(session, tenant_id, ROUTE, key, fingerprint(raw), hours)
    return BulkOut.model_validate(before.body) if before is not None else None


@router.get("", responses=documented(401, 422))
def index(
    context: ContextDep,
    caller: CallerDep,
    state: Annotated[BulkState | None, Query()] = None,
    collection_id: Annotated[str | None, Query(max_length=50)] = None,
    cursor: Cursor = None,
    limit: Limit = 20,
) -> BulkPage:
    """List your bulk jobs, newest first."""
    pager = Pager(context.settings.pepper, f"bulk {caller.tenant_id} {state} {collection_id}")
    with context.database.session() as session:
        rows = bulk.page(
            session,
            caller.tenant_id,
            state=state,
            collection_id=collection_id,
            before=pager.key(cursor),
            limit=limit + 1,
        )
        page, after = pager.cut(rows, limit, lambda row: [row.id])
        data = [bulk_out(session, row) for row in page]
    return BulkPage(data=data, has_more=after is not None, next_cursor=after)


@router.get("/{bulk_id}", name="show_bulk", responses=documented(401, 404))
def show(bulk_id: str, context: ContextDep, caller: CallerDep) -> BulkOut:
    """Get a bulk job, with live counts."""
    with context.database.session() as session:
        return bulk_out(session, bulk.get(session, caller.tenant_id, bulk_id))


@router.get("/{bulk_id}/documents", responses=documented(401, 404, 422))
def documents(
    bulk_id: str,
    context: ContextDep,
    caller: CallerDep,
    state: Annotated[str | None, Query(max_length=20, pattern="^[a-z]+$")] = None,
    cursor: Cursor = None,
    limit: LargeLimit = 20,
) -> BulkItemPage:
    """List its documents by path, with their answers so far."""
    pager = Pager(context.settings.pepper, f"bulk documents {bulk_id} {state}")
    last = int(pager.key(cursor) or -1)
    with context.database.session() as session:
        bulk.get(session, caller.tenant_id, bulk_id)
        found = results.lines(session, caller.tenant_id, bulk_id, after=last, limit=limit + 1, state=state)
    page, after = pager.cut(found, limit, lambda line: [str(line.seq)])
    data = [_item_out(line) for line in page]
    return BulkItemPage(data=data, has_more=after is not None, next_cursor=after)


@router.get("/{bulk_id}/bundle/{name}", response_class=StreamingResponse, responses=documented(401, 404, 409))
def bundle(bulk_id: str, name: File, context: ContextDep, caller: CallerDep) -> StreamingResponse:
    """Download a file of the bundle: a line per document, the digest as text, or the totals."""
    with context.database.session() as session:
        row = bulk.get(session, caller.tenant_id, bulk_id)
    if row.bundle_key is None:
        detail = f"The bulk job is {row.state}; its bundle is not ready yet."
        if row.state in bulk.ENDED:
            detail = f"The bulk job ended without a bundle: {row.error_message}"
        raise Problem(409, "bundle_not_ready", detail, headers={"retry-after": "5"}, state=row.state)
    key = f"{row.bundle_key}/{name}"
    if not context.blobs.exists(key):
        raise NotFound(f"The blob {key} no longer exists.")
    shown = {"content-disposition": f'attachment; filename="{bulk_id}-{name}"'}
    return StreamingResponse(chunks(context.blobs, key), media_type=FILES[name], headers=shown)


@router.post("/{bulk_id}/cancel", responses=documented(401, 404))
def cancel(bulk_id: str, context: ContextDep, caller: CallerDep) -> BulkOut:
    """Cancel the unfinished documents; finished ones go into the bundle. Idempotent."""
    with context.database.session() as session:
        return bulk_out(session, bulk.cancel(session, caller.tenant_id, bulk_id))


@router.post("/{bulk_id}/retry", responses=documented(401, 402, 404, 409))
def retry(bulk_id: str, context: ContextDep, caller: CallerDep) -> BulkOut:
    """Retry only what did not succeed, and make the bundle again."""
    with context.database.session() as session:
        spent = bulk_terms.blocking_budget(session, bulk.get(session, caller.tenant_id, bulk_id).id)
    with context.database.session() as session:
        return bulk_out(session, bulk.retry(session, caller.tenant_id, bulk_id, spent))
