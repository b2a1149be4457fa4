"""Activations of scorer versions, rollback, and the audit log."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from api.context import AdminDep, CallerDep, ContextDep
from api.http.cursors import Cursor, Limit, Pager
from api.problems import Problem, documented
from api.scorers.presenters import activation_out
from api.scorers.schemas import (
    ActivationCreate,
    ActivationOut,
    ActivationPage,
    AuditOut,
    AuditPage,
    Name,
    Reason,
    RollbackCreate,
    Scope,
)
from store import audit, tenants
from store.errors import NotFound
from store.scorers import activations, registry
from store.scorers.serving import Alias

router = APIRouter(prefix="/v1", tags=["scorers"])

MAX_SUBJECT = 300


@router.post(
    "/scorers/{name}/activations", status_code=201, responses=documented(400, 401, 403, 404, 409, 422)
)
def activate(name: Name, body: ActivationCreate, context: ContextDep, caller: AdminDep) -> ActivationOut:
    """Activate a version for a scope. The scope's earlier activation under the same alias ends."""
    percent = body.percent if body.percent is not None else 100 if body.alias is Alias.STABLE else 0
    with context.database.session() as session:
        _refuse_unknown_tenant(session, body.scope)
        made = activations.activate(
            session,
            registry.get(session, name, body.version),
            body.scope,
            caller.key_id,
            alias=body.alias,
            percent=percent,
            shadow_percent=body.shadow_percent,
            bounds=body.bounds.model_dump(exclude_none=True) if body.bounds else None,
            reason=body.reason,
        )
        return activation_out(session, made)


def _refuse_unknown_tenant(session: Session, scope: str) -> None:
    kind, _, tenant_id = scope.partition(":")
    if kind == "tenant" and not tenants.exists(session, tenant_id):
        raise Problem(422, "unknown_tenant", f"There is no tenant '{tenant_id}'.", field="scope")


@router.delete(
    "/scorers/{name}/activations/{scope:path}/{alias}",
    status_code=204,
    responses=documented(401, 403, 404, 422),
)
def end(
    name: Name,
    scope: Scope,
    alias: Alias,
    context: ContextDep,
    caller: AdminDep,
    reason: Annotated[Reason, Query()] = "ended on request",
) -> None:
    """End the activation of a scope and alias; its jobs then use that of a wider scope."""
    with context.database.session() as session:
        ended = activations.end(session, name, scope, alias, caller.key_id, reason=reason)
        if ended is None:
            raise NotFound(f"No version of {name} is active as {alias} in the scope {scope}.")


@router.post("/scorers/{name}/rollback", responses=documented(400, 401, 403, 409, 422))
def rollback(name: Name, body: RollbackCreate, context: ContextDep, caller: AdminDep) -> ActivationOut:
    """Roll back to the previous stable version of the scope, and end its canary."""
    with context.database.session() as session:
        made = activations.rollback(session, name, body.scope, caller.key_id, reason=body.reason)
        return activation_out(session, made)


@router.get("/scorers/{name}/activations", responses=documented(401, 422))
def index(
    name: Name,
    context: ContextDep,
    caller: CallerDep,
    still_open: Annotated[
        bool | None,
        Query(alias="open", description="Only open activations (`true`), or only ended ones (`false`)."),
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ActivationPage:
    """List open and ended activations, newest first. Only admins see those of other tenants."""
    mine = None if caller.admin else caller.tenant_id
    pager = Pager(context.settings.pepper, f"activations {name} {mine} {still_open}")
    last = pager.key(cursor)
    before = None if last is None else int(last)
    terms: dict[str, Any] = {"name": name, "seen_by": mine, "still_open": still_open, "before": before}
    with context.database.session() as session:
        rows = activations.history(session, **terms, limit=limit + 1)
        page, after = pager.cut(rows, limit, lambda row: [str(row.number)])
        data = [activation_out(session, row) for row in page]
    return ActivationPage(data=data, has_more=after is not None, next_cursor=after)


@router.get("/audit", responses=documented(401, 403, 422))
def audit_log(
    context: ContextDep,
    caller: AdminDep,
    subject: Annotated[
        str | None, Query(max_length=MAX_SUBJECT, description="`name@version`.", pattern="^[^\\x00]*$")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> AuditPage:
    """List changes of the registry, with who made them and when, newest first."""
    pager = Pager(context.settings.pepper, f"audit {subject}")
    last = pager.key(cursor)
    before = None if last is None else int(last)
    with context.database.session() as session:
        rows = audit.entries(session, subject=subject, before=before, limit=limit + 1)
    page, after = pager.cut(rows, limit, lambda row: [str(row.id)])
    data = [AuditOut.model_validate(row) for row in page]
    return AuditPage(data=data, has_more=after is not None, next_cursor=after)
