"""The errors of the store. Each has a machine code and a sentence; its base class says what kind it is.

The API answers with a status by the base class, see `api.problems`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar


class StoreError(Exception):
    """An expected failure; `code` is stable, the message is a sentence for a person.

    Attributes:
        field: the field of a request that is at fault, if one is.
        extra: figures and names that help to correct the request.
    """

    code = "store_error"
    field: str | None = None
    extra: Mapping[str, Any] = MappingProxyType({})


class NotFound(StoreError):
    """No such row, or it belongs to another tenant: the two are deliberately indistinguishable."""

    code = "not_found"


class Conflict(StoreError):
    """The request is valid, but conflicts with the resource's current state."""


class Invalid(StoreError):
    """Something in the request is wrong, regardless of state."""


class Unavailable(StoreError):
    """What the request needs is not there now; the same request may succeed later."""

    retry_after_seconds: ClassVar[int] = 5


class Refused(Invalid):
    """A request that cannot be met, for one of many reasons: the code is given when it is raised."""

    def __init__(self, code: str, message: str, field: str | None = None, **extra: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.field, self.extra = code, message, field, extra


class BudgetExceeded(Refused):
    """A crossed budget rejects new jobs."""

    code = "budget_exceeded"

    def __init__(self, message: str, **extra: Any) -> None:
        super().__init__(self.code, message, **extra)


class NoWorker(Unavailable, Refused):
    """No live worker can take the job; the only refusal that resolves itself."""

    code = "no_worker"

    def __init__(self, message: str) -> None:
        super().__init__(self.code, message)


class IdempotencyMismatch(Invalid):
    """An Idempotency-Key was reused with a different request."""

    code = "idempotency_mismatch"
    field = "Idempotency-Key"


class LeaseLost(StoreError):
    """A write came with a fencing token that is no longer the job's: stop working on it at once."""

    code = "lease_lost"
