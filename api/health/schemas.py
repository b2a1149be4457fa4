"""What the health checks answer."""

from typing import Literal

from api.schemas import Answered


class CheckOut(Answered):
    """One thing that readiness looks at."""

    ok: bool
    detail: str | None = None


class ReadyOut(Answered):
    """Whether jobs can be taken and worked on now."""

    ready: bool
    checks: dict[str, CheckOut]


class HealthOut(Answered):
    """The process answers."""

    status: Literal["ok"] = "ok"
