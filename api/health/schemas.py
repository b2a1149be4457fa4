"""Responses of the health checks."""

from typing import Literal

from api.schemas import ResponseModel


class CheckOut(ResponseModel):
    """One check of the readiness."""

    ok: bool
    detail: str | None = None


class ReadyOut(ResponseModel):
    """Whether jobs can be accepted and run now."""

    ready: bool
    checks: dict[str, CheckOut]


class HealthOut(ResponseModel):
    """The process responds."""

    status: Literal["ok"] = "ok"
