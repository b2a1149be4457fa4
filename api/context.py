"""What every route needs: the settings, the database and the blobs; and who is calling."""

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
    """Opened once for the application."""

    settings: Settings
    database: Database
    blobs: Blobs
    sources: Sources


@dataclass(frozen=True)
class Caller:
    """Whose key came with the request."""

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
    """The tenant of the API key. Raises Problem 401 without a valid one, 422 for parameters there are not."""
    if credentials is None:
        raise _unauthorized("api_key_missing", "Send an API key: 'Authorization: Bearer pal_…'.")
    if not api_keys.well_formed(credentials.credentials):
        raise _unauthorized(
            "api_key_malformed", "This is not an API key of Palimpsest, or a character is wrong."
        )
    with context.database.session() as session:
        key = api_keys.authenticate(session, credentials.credentials, context.settings.pepper)
        if key is None:
            raise _unauthorized("api_key_invalid", "This API key is unknown, expired or revoked.")
        found = Caller(key.tenant_id, key.id, key.project, key.admin)
    refuse_undeclared(request)
    return found


def admin(caller: Annotated[Caller, Depends(caller)]) -> Caller:
    """The caller, whose key is an admin's. Raises Problem 403 for another one."""
    if not caller.admin:
        detail = "Only an admin's key may do this: 'palimpsest key create --admin' makes one."
        raise Problem(403, "admin_required", detail, field="Authorization")
    return caller


def _unauthorized(code: str, detail: str) -> Problem:
    return Problem(401, code, detail, field="Authorization", headers={"www-authenticate": "Bearer"})


ContextDep = Annotated[Context, Depends(context)]
CallerDep = Annotated[Caller, Depends(caller)]
AdminDep = Annotated[Caller, Depends(admin)]
