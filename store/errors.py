"""What the store raises. Each error has a machine code and a sentence."""

from typing import Any


class StoreError(Exception):
    """An expected failure; `code` is stable, the message is a sentence for a person."""

    code = "store_error"


class NotFound(StoreError):
    """No such row, or it belongs to another tenant: the two are not told apart."""

    code = "not_found"


class LeaseLost(StoreError):
    """A write came with a fencing token that is no longer the job's: stop working on it at once."""

    code = "lease_lost"


class IdempotencyMismatch(StoreError):
    """An Idempotency-Key came again with another request."""

    code = "idempotency_mismatch"


class Refused(StoreError):
    """What is asked for cannot be had. `field` is the one at fault; `extra` helps to mend it."""

    def __init__(self, code: str, message: str, field: str | None = None, **extra: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.field, self.extra = code, message, field, extra
