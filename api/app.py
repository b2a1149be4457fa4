"""The application: `uvicorn api.app:create_app --factory`."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from fastapi import FastAPI, Request
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.responses import Response

from api import problems
from api.budgets import routes as budgets
from api.bulk import routes as bulk
from api.collections import routes as collections
from api.context import Context
from api.documents import routes as documents
from api.health import routes as health
from api.jobs import routes as jobs
from api.middleware import BodyLimit, PlainPath, RequestId
from api.models import routes as models
from api.problems import Problem
from api.reports import exports
from api.reports import routes as reports
from api.schedules import routes as schedules
from api.scorers import activations, outcomes, rollout
from api.scorers import routes as scorers
from api.templates import routes as templates
from api.webhooks import routes as webhooks
from store import blobs, database, log
from store.bulk import NotRetryable
from store.collections import CollectionExists, CollectionInUse, CollectionLive
from store.errors import IdempotencyMismatch, NotFound, Refused, StoreError
from store.scorers.activations import NoWayBack
from store.scorers.registry import VersionExists
from store.scorers.serving import NotUsable
from store.settings import Settings
from store.sources import folders

_log = log.get("api")

STREAMED = re.compile("/v1/documents|/v1/scorers/[^/]+/versions")
DESCRIPTION = """Reads million-token documents with a Llama whose KV cache is pruned by an evolved scorer.

Upload a document, submit a job, look at its progress, read its result and its cost. Every error is an
RFC 9457 problem (`application/problem+json`) with a `code` and the fields at fault.
"""


# The statuses of what the store refuses; the rest is the request's own fault.
REFUSED = {"budget_exceeded": 402, "no_worker": 503}


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API with connections of its own; `settings` default to the environment's."""
    config = settings or Settings()
    context = Context(config, database.connect(config), blobs.connect(config), folders.connect(config))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.configure(config)
        yield
        context.database.close()

    app = FastAPI(title="Palimpsest", version="1", description=DESCRIPTION, lifespan=lifespan)
    app.state.context = context
    problems.install(app)
    plain = app.openapi
    app.openapi = cache(lambda: problems.describe(plain()))  # type: ignore[method-assign]
    _install_store_errors(app)
    # JSON may spell a character with six bytes, and there is more in a request than its text.
    app.add_middleware(BodyLimit, limit=6 * config.max_inline_bytes + 1024 * 1024, streamed=STREAMED)
    app.add_middleware(PlainPath)
    app.add_middleware(RequestId)
    for one in (
        documents,
        jobs,
        templates,
        collections,
        bulk,
        budgets,
        schedules,
        models,
        scorers,
        activations,
        outcomes,
        rollout,
        reports,
        exports,
        webhooks,
        health,
    ):
        app.include_router(one.router)
    return app


def _install_store_errors(app: FastAPI) -> None:
    @app.exception_handler(NotFound)
    def _not_found(request: Request, error: NotFound) -> Response:
        return problems.answer(request, Problem(404, error.code, str(error)))

    @app.exception_handler(Refused)
    def _refused(request: Request, error: Refused) -> Response:
        status = REFUSED.get(error.code, 422)
        headers = {"retry-after": "5"} if status == 503 else None
        problem = Problem(
            status, error.code, error.message, field=error.field, headers=headers, **error.extra
        )
        return problems.answer(request, problem)

    @app.exception_handler(IdempotencyMismatch)
    def _mismatch(request: Request, error: IdempotencyMismatch) -> Response:
        return problems.answer(request, Problem(422, error.code, str(error), field="Idempotency-Key"))

    @app.exception_handler(VersionExists)
    @app.exception_handler(NotUsable)
    @app.exception_handler(NoWayBack)
    @app.exception_handler(CollectionExists)
    @app.exception_handler(CollectionInUse)
    @app.exception_handler(CollectionLive)
    @app.exception_handler(NotRetryable)
    def _conflict(request: Request, error: StoreError) -> Response:
        return problems.answer(request, Problem(409, error.code, str(error)))

    @app.exception_handler(OperationalError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(PoolTimeout)
    def _unavailable(request: Request, error: Exception) -> Response:
        _log.error("database unavailable", path=request.url.path, error=str(error))
        detail = "The database does not answer; nothing was changed. Try again in a moment."
        return problems.answer(
            request, Problem(503, "database_unavailable", detail, headers={"retry-after": "5"})
        )
