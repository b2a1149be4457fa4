"""The application: `uvicorn api.app:create_app --factory`."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from fastapi import FastAPI

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
from api.reports import exports
from api.reports import routes as reports
from api.schedules import routes as schedules
from api.scorers import activations, outcomes, rollout
from api.scorers import routes as scorers
from api.templates import routes as templates
from api.webhooks import routes as webhooks
from store import blobs, database, log
from store.settings import Settings
from store.sources import folders

STREAMED = re.compile("/v1/documents|/v1/scorers/[^/]+/versions")
DESCRIPTION = """Reads million-token documents with a Llama whose KV cache is pruned by an evolved scorer.

Upload a document, submit a job, follow its progress, and read its result and its cost. Every error is an
RFC 9457 problem (`application/problem+json`) with a `code` and the fields at fault.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API with its own connections; `settings` default to those of the environment."""
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
    # JSON may escape a character as six bytes, and a request has more than its text.
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
