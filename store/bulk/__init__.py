"""Bulk jobs: the same work for every document of a collection."""

from store.bulk.repository import (
    CHANNEL,
    ENDED,
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

__all__ = [
    "CHANNEL",
    "ENDED",
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
