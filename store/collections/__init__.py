"""Collections: named sets of documents."""

from store.collections.repository import (
    CollectionExists,
    CollectionInUse,
    CollectionLive,
    Counts,
    add,
    add_unread,
    counts,
    create,
    drop,
    get,
    items,
    of_source,
    page,
    refresh,
    remove,
)

__all__ = [
    "CollectionExists",
    "CollectionInUse",
    "CollectionLive",
    "Counts",
    "add",
    "add_unread",
    "counts",
    "create",
    "drop",
    "get",
    "items",
    "of_source",
    "page",
    "refresh",
    "remove",
]
