"""What every route needs: settings, database, blobs, and the caller."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.http.query_parameters import refuse_undeclared
from api.problems import Problem
from store.blobs import Blobs
from store.database import Database
from store.settings import Settings
from store.sources.folders import Sources
from store.tenants import api_keys


@dataclass(frozen=True)
class Context:
    """The connections of the application, opened once."""

    settings: Settings
    database: Database
    blobs: Blobs
    sources: Sources


@dataclass(frozen=True)
class Caller:
    """The owner of the request's API key."""

    tenant_id: str
    key_id: str
    project: str
    admin: bool


def context(request: Request) -> Context:
    """The application's context."""
    found: Context = request.app.state.context
    return found


_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer pal_…`.")


def caller(
    request: Request,
    context: Annotated[Context, Depends(context)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """The owner of the API key. Raises Problem 401 without a valid key, 422 for unknown parameters."""
    if credentials is None:
        raise _unauthorized("api_key_missing", "Send an API key: 'Authorization: Bearer pal_…'.")
    if not api_keys.well_formed(credentials.credentials):
        raise _unauthorized("api_key_malformed", "This is not a Palimpsest API key, or it is mistyped.")
    with context.database.session() as session:
        key = api_keys.authenticate(session, credentials.credentials, context.settings.pepper)
        if key is None:
            raise _unauthorized("api_key_invalid", "This API key is unknown, expired or revoked.")
        found = Caller(key.tenant_id, key.id, key.project, key.admin)
    refuse_undeclared(request)
    return found


def admin(caller: Annotated[Caller, Depends(caller)]) -> Caller:
    """The caller, who must have an admin key. Raises Problem 403."""
    if not caller.admin:
        detail = "This requires an admin key; create one with 'palimpsest key create --admin'."
        raise Problem(403, "admin_required", detail, field="Authorization")
    return caller


def _unauthorized(code: str, detail: str) -> Problem:
    return Problem(401, code, detail, field="Authorization", headers={"www-authenticate": "Bearer"})


ContextDep = Annotated[Context, Depends(context)]
CallerDep = Annotated[Caller, Depends(caller)]
AdminDep = Annotated[Caller, Depends(admin)]
