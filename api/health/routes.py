"""Liveness and readiness."""

from collections.abc import Callable

import redis
from fastapi import APIRouter, Response

from api.context import Context, ContextDep
from api.health.schemas import CheckOut, HealthOut, ReadyOut
from store import workers

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthy() -> HealthOut:
    """Liveness: the process responds.

    A database outage must not restart the API, so nothing else is checked.
    """
    return HealthOut()


@router.get("/readyz", responses={503: {"model": ReadyOut, "description": "Not ready; the checks tell why."}})
def ready(response: Response, context: ContextDep) -> ReadyOut:
    """Readiness: Postgres and Redis respond, documents can be stored, and a live worker serves a model."""
    checks = {
        "postgres": _check(context.database.ping),
        "redis": _check(lambda: _ping_redis(context.settings.redis)),
        "blobs": _check(context.blobs.check),
        "worker": _check(lambda: _find_worker(context)),
    }
    answer = ReadyOut(ready=all(check.ok for check in checks.values()), checks=checks)
    if not answer.ready:
        response.status_code = 503
    return answer


def _check(act: Callable[[], None]) -> CheckOut:
    try:
        act()
    except LookupError as reason:
        return CheckOut(ok=False, detail=str(reason.args[0]))
    except (
        Exception
    ) as error:  # any error means "not ready"; its text may contain addresses, so it is not shown
        return CheckOut(ok=False, detail=f"does not respond ({type(error).__name__})")
    return CheckOut(ok=True)


def _ping_redis(url: str) -> None:
    with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
        client.ping()


def _find_worker(context: Context) -> None:
    with context.database.session() as session:
        known = workers.models(session, context.settings.worker_live_seconds)
    if not any(model.workers_live for model in known):
        raise LookupError("no live worker serves a model")
    if not any(model.workers_live > len(model.errors) for model in known):
        raise LookupError("no worker could load its model; GET /v1/models tells why")
