"""Jobs, from submission to result."""

from store.jobs.repository import (
    NewJob,
    attempts,
    cancel,
    close,
    create,
    ended_with_snapshot,
    forget_snapshots,
    get,
    list_jobs,
    note_hints,
    requeue,
    result,
)

__all__ = [
    "NewJob",
    "attempts",
    "cancel",
    "close",
    "create",
    "ended_with_snapshot",
    "forget_snapshots",
    "get",
    "list_jobs",
    "note_hints",
    "requeue",
    "result",
]
