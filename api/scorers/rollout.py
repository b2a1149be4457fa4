"""The rollout of the active scorer versions."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from api.context import CallerDep, ContextDep
from api.problems import documented
from api.schemas import ResponseModel
from store.scorers import rollout
from store.scorers.rollout import Rollout

router = APIRouter(prefix="/v1/rollout", tags=["scorers"])


class WorkerRolloutOut(ResponseModel):
    """The version of a scorer that a live worker has loaded."""

    worker_id: str = Field(examples=["wrk_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    host: str = Field(examples=["gpu-7"])
    scorer: str | None = Field(
        description="The desired version if it is loaded, else the last one used; null without any from "
        "the registry, when jobs run with the bundled one.",
        examples=["namm-key@4"],
    )
    sha256: str | None
    loaded_at: datetime | None
    age_seconds: float | None = Field(description="Since it was loaded.")
    error: str | None = Field(description="Why loading the desired version failed.")


class RolloutOut(ResponseModel):
    """The version that should serve a scope, and the live workers of that scope."""

    name: str = Field(examples=["namm-key"])
    scope: str = Field(examples=["global"])
    alias: Literal["stable", "canary"]
    desired: str = Field(examples=["namm-key@4"])
    activated_at: datetime
    ready: int = Field(description="Live workers that have loaded the desired version.")
    live: int
    summary: str = Field(examples=["2 of 3"])
    workers: list[WorkerRolloutOut]


class RolloutList(ResponseModel):
    """The rollout of every open activation."""

    data: list[RolloutOut]


def _out(found: Rollout) -> RolloutOut:
    activation, live = found.activation, len(found.workers)
    return RolloutOut(
        name=activation.name,
        scope=activation.scope,
        alias=activation.alias,  # type: ignore[arg-type]
        desired=found.desired,
        activated_at=activation.activated_at,
        ready=found.ready,
        live=live,
        summary=f"{found.ready} of {live}",
        workers=[WorkerRolloutOut.model_validate(worker) for worker in found.workers],
    )


@router.get("", responses=documented(401))
def index(context: ContextDep, caller: CallerDep) -> RolloutList:
    """Show each active scorer version and which live workers have loaded it.

    A worker loads a version when it starts to serve or when a job first needs it, so a worker that is not
    ready still runs its next job with the desired version. Scopes of other tenants are left out.
    """
    with context.database.session() as session:
        found = rollout.rollout(session, context.settings.worker_live_seconds)
    own = f"tenant:{caller.tenant_id}"
    seen = [
        one
        for one in found
        if caller.admin
        or one.activation.scope.startswith(("global", "model:"))
        or one.activation.scope == own
    ]
    answer = RolloutList(data=[_out(one) for one in seen])
    for worker in (worker for one in answer.data for worker in one.workers):
        if worker.error is not None and not caller.admin:
            worker.error = "It could not be loaded; admins see the reason."  # which may name folders
    return answer
