"""The states of a bulk job."""

from __future__ import annotations

from enum import StrEnum


class BulkState(StrEnum):
    """listing → running → digesting → bundling → succeeded | failed | cancelled; also `cancelling`."""

    LISTING = "listing"
    RUNNING = "running"
    DIGESTING = "digesting"
    BUNDLING = "bundling"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({BulkState.SUCCEEDED, BulkState.FAILED, BulkState.CANCELLED})
