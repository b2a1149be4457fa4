"""Bulk jobs: the same task for every document of a set."""

from store.bulk.repository import (
    CHANNEL,
    NewBulk,
    NotRetryable,
    ask_from_json,
    ask_to_json,
    cancel,
    count,
    create,
    get,
    listen,
    page,
    retry,
    state_of_item,
    wait,
    wake,
)
from store.tables.bulk_states import ENDED, BulkState

__all__ = [
    "CHANNEL",
    "ENDED",
    "BulkState",
    "NewBulk",
    "NotRetryable",
    "ask_from_json",
    "ask_to_json",
    "cancel",
    "count",
    "create",
    "get",
    "listen",
    "page",
    "retry",
    "state_of_item",
    "wait",
    "wake",
]
