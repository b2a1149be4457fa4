"""Scorers: upload, read and compare versions, which never change."""

import hashlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from api.context import AdminDep, Caller, CallerDep, Context, ContextDep
from api.http.blob_writer import chunks
from api.http.cursors import Cursor, Limit, Pager
from api.http.idempotency import RawBody
from api.problems import Problem, documented
from api.scorers import presenters
from api.scorers.schemas import DiffOut, EvaluationIn, Name, ScorerPage, Version, VersionOut, VersionPage
from api.scorers.uploads import ScorerUpload, receive_scorer
from store import workers
from store.errors import NotFound, NoWorker
from store.scorers import activations, registry
from store.scorers.registry import USABLE, VersionExists
from store.scorers.serving import NotUsable
from store.tables.scorers import ScorerVersion

router = APIRouter(prefix="/v1/scorers", tags=["scorers"])

MAX_EVALUATION_BYTES = 2 << 20
_BINARY = {"type": "string", "format": "binary"}
_UPLOAD = {
    "requestBody": {
        "required": True,
        "description": "The parts `scorer` and `manifest`, or the part `checkpoint`.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "scorer": _BINARY | {"description": "scorer.safetensors, at most 16 MiB."},
                        "manifest": _BINARY | {"description": "manifest.json, at most 1 MiB."},
                        "checkpoint": _BINARY
                        | {"description": "Instead: a ckpt.pt of the reference trainer, at most 1 GiB."},
                        "version": {
                            "type": "string",
                            "description": "Default: the manifest's, else the next whole number.",
                        },
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}
_UPLOADED: dict[int | str, dict[str, Any]] = {
    200: {"model": VersionOut, "description": "The same files were uploaded before."},
    **documented(400, 401, 403, 408, 409, 413, 415, 422, 503, 507),
}
_FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file; its `ETag` is its sha256.",
        "content": {"application/octet-stream": {"schema": _BINARY}},
    },
    304: {"description": "It matches `If-None-Match`."},
    **documented(401, 404, 409, 422),
}


@router.post(
    "/{name}/versions",
    status_code=201,
    openapi_extra=_UPLOAD,
    responses=_UPLOADED,
)
async def upload(
    name: Name, request: Request, response: Response, context: ContextDep, caller: AdminDep
) -> VersionOut:
    """Upload a version. A worker verifies it within seconds; until then it cannot be used."""
    await run_in_threadpool(_check_workers, context, name)
    uploaded = await receive_scorer(request, context.blobs, name)
    shown, new = await run_in_threadpool(_record, context, caller, name, uploaded)
    if not new:
        response.status_code = 200
    location = request.url_for("show_scorer_version", name=name, version=shown.version)
    response.headers["location"] = location.path
    return shown


def _check_workers(context: Context, name: str) -> None:
    """Checks, before anything is stored, that bundled versions are known. Raises NoWorker."""
    with context.database.session() as session:
        _bundled(context, session, name)


def _record(context: Context, caller: Caller, name: str, uploaded: ScorerUpload) -> tuple[VersionOut, bool]:
    new = False
    try:
        with context.database.session() as session:
            bundled = _bundled(context, session, name)
            version = uploaded.version or registry.next_version(session, name, set(bundled), uploaded.sha256)
            if bundled.get(version, uploaded.hashes.get("scorer")) != uploaded.hashes.get("scorer"):
                raise VersionExists(f"{name}@{version} is bundled with workers; use another version.")
            row, new = registry.upload(
                session,
                name=name,
                version=version,
                kind=uploaded.kind,
                upload_key=uploaded.prefix,
                upload_sha256=uploaded.sha256,
                actor=caller.key_id,
            )
            shown = presenters.version_out(session, row, activations.current(session))
    finally:
        # Not if `new`: a commit that failed may have taken effect, so rather keep unused blobs.
        if not new:
            uploaded.discard()
    return shown, new


def _bundled(context: Context, session: Session, name: str) -> dict[str, str]:
    """sha256 by version of the scorers of this name that are bundled with workers.

    Raises NoWorker until a worker has reported them, as a clash would go unnoticed.
    """
    cards = [model.card for model in workers.models(session, context.settings.worker_live_seconds)]
    loaded = [card.scorers for card in cards if card.scorers is not None]
    if not loaded:
        detail = (
            "No worker has loaded its model yet, so the versions bundled with workers are unknown. "
            "Try again in a moment, or start a worker."
        )
        raise NoWorker(detail)
    found = [scorer for own in loaded for scorer in own]
    return {scorer["version"]: scorer["sha256"] for scorer in found if scorer["name"] == name}


@router.get("", responses=documented(401, 422))
def index(context: ContextDep, caller: CallerDep, cursor: Cursor = None, limit: Limit = 50) -> ScorerPage:
    """List the registry's scorers and their versions, newest first. GET /v1/models has bundled ones."""
    rows, after = _page(context, None, cursor, limit)
    return ScorerPage(data=presenters.by_name(rows), has_more=after is not None, next_cursor=after)


@router.get("/{name}/versions", responses=documented(401, 404, 422))
def versions(
    name: Name, context: ContextDep, caller: CallerDep, cursor: Cursor = None, limit: Limit = 50
) -> VersionPage:
    """List the versions of a scorer, newest first."""
    rows, after = _page(context, name, cursor, limit)
    if not rows and cursor is None:
        raise NotFound(f"There is no scorer {name} in the registry.")
    data = presenters.briefs(rows)
    return VersionPage(name=name, data=data, has_more=after is not None, next_cursor=after)


def _page(
    context: Context, name: str | None, cursor: str | None, limit: int
) -> tuple[list[ScorerVersion], str | None]:
    pager = Pager(context.settings.pepper, f"versions {name}")
    last = pager.place(cursor)
    after = None if last is None else (last[0], last[1])
    with context.database.session() as session:
        rows = registry.versions(session, name=name, after=after, limit=limit + 1)
    return pager.cut(rows, limit, lambda row: [row.name, row.id])


@router.get("/{name}/versions/{version}", name="show_scorer_version", responses=documented(401, 404, 422))
def show(name: Name, version: Version, context: ContextDep, caller: CallerDep) -> VersionOut:
    """Get a version: its state, manifest, evaluation and activations."""
    with context.database.session() as session:
        return _shown(session, registry.get(session, name, version), caller)


def _shown(session: Session, row: ScorerVersion, caller: Caller) -> VersionOut:
    return presenters.version_out(session, row, presenters.visible(activations.current(session), caller))


def _usable(session: Session, name: str, version: str) -> ScorerVersion:
    row = registry.get(session, name, version)
    if row.state not in USABLE:
        raise NotUsable(f"{registry.label(row)} is {row.state}; only verified versions have files.")
    return row


@router.get("/{name}/versions/{version}/files/{file}", response_class=Response, responses=_FILES)
def download(
    name: Name,
    version: Version,
    file: Literal["scorer.safetensors", "manifest.json"],
    request: Request,
    context: ContextDep,
    caller: CallerDep,
) -> Response:
    """Download a file of a verified version."""
    with context.database.session() as session:
        row = _usable(session, name, version)
    key = f"{row.blob_key}/{file}"
    digest = row.sha256 if file == "scorer.safetensors" else _digest(context, key)
    headers = {
        "etag": f'"{digest}"',
        "cache-control": "private, immutable, max-age=31536000",
        "content-disposition": f'attachment; filename="{file}"',
    }
    if f'"{digest}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    media_type = "application/json" if file == "manifest.json" else "application/octet-stream"
    if not context.blobs.exists(key):
        raise NotFound(f"The blob {key} no longer exists.")
    return StreamingResponse(chunks(context.blobs, key), media_type=media_type, headers=headers)


def _digest(context: Context, key: str) -> str:
    digest = hashlib.sha256()
    for chunk in chunks(context.blobs, key):
        digest.update(chunk)
    return digest.hexdigest()


@router.get("/{name}/versions/{version}/diff", responses=documented(401, 404, 409, 422))
def diff(
    name: Name,
    version: Version,
    context: ContextDep,
    caller: CallerDep,
    other: Annotated[Version, Query(alias="with", description="The version to compare it with.")],
) -> DiffOut:
    """Compare the manifests of two versions: `from` is this version's entry, `to` that of `with`."""
    with context.database.session() as session:
        return presenters.diff(_usable(session, name, version), _usable(session, name, other))


@router.put("/{name}/versions/{version}/evaluation", responses=documented(400, 401, 403, 404, 413, 422))
def evaluate(
    name: Name, version: Version, body: EvaluationIn, raw: RawBody, context: ContextDep, caller: AdminDep
) -> VersionOut:
    """Attach the output of `namm evaluate --json`, replacing an earlier one."""
    if len(raw) > MAX_EVALUATION_BYTES:
        detail = f"The report is larger than {MAX_EVALUATION_BYTES:,} bytes."
        raise Problem(413, "evaluation_too_large", detail, field="body", max_bytes=MAX_EVALUATION_BYTES)
    with context.database.session() as session:
        row = registry.get(session, name, version)
        registry.attach_evaluation(session, row, body.model_dump(), caller.key_id)
        return _shown(session, row, caller)
