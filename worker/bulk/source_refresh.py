"""Refreshes collections from their sources, a step at a time, so that no refresh holds up other work."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection as Names
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime

from store import log
from store.collections import files
from store.database import Database, lost
from store.errors import Refused
from store.sources.folders import Folder, Sources
from store.sources.listing import Entry, SourceUnavailable
from store.tables.collections import Collection
from worker.bulk.ingest import Ingest

STEP_FILES = 200
STEP_SECONDS = 5.0
_DEFECT = "An internal error occurred while the source was read."

_log = log.get("worker.bulk.source_refresh")


@dataclass(frozen=True)
class _Refresh:
    """A refresh in progress."""

    attempt: Hashable
    requested_at: datetime | None  # the request that it answers; a later request needs a new refresh
    unread: deque[Entry]


class SourceRefreshes:
    """The refreshes that this process has started.

    Their progress is kept in memory only: another process lists the source again and finds most files
    unchanged.
    """

    def __init__(self, database: Database, sources: Sources, ingest: Ingest) -> None:
        self._database, self._sources, self._ingest = database, sources, ingest
        self._in_progress: dict[str, _Refresh] = {}

    def keep_only(self, names: Names[str]) -> None:
        """Drops refreshes that nothing waits for any more."""
        self._in_progress = {name: one for name, one in self._in_progress.items() if name in names}

    def step(self, collection_id: str, name: str, attempt: Hashable = None) -> bool:
        """Continues the refresh `name`, or starts it if it belongs to another `attempt`; True when finished.

        Raises Refused, SourceUnavailable and any other error, after recording it in the collection.
        """
        with self._database.session() as session:
            collection = session.get(Collection, collection_id)
        if collection is None or collection.source is None:
            return True
        try:
            folder = self._sources.folder(collection.tenant_id, collection.source)
            refresh = self._start_or_continue(
                collection, folder, name, attempt or collection.refresh_requested_at
            )
            self._read_some(collection, folder, refresh)
        except Exception as error:
            self._in_progress.pop(name, None)
            if lost(error):  # the next step may succeed
                raise
            self._database.ping()
            why = str(error) if isinstance(error, Refused | SourceUnavailable) else _DEFECT
            self._finish(collection_id, collection.refresh_requested_at, why)
            raise
        if refresh.unread:
            return False
        del self._in_progress[name]
        self._finish(collection_id, refresh.requested_at, None)
        return True

    def _start_or_continue(
        self, collection: Collection, folder: Folder, name: str, attempt: Hashable
    ) -> _Refresh:
        refresh = self._in_progress.get(name)
        if refresh is None or refresh.attempt != attempt:
            entries = folder.entries(collection.glob)
            with self._database.session() as session:
                unread = deque(files.record_listing(session, collection, entries))
            refresh = _Refresh(attempt, collection.refresh_requested_at, unread)
            self._in_progress[name] = refresh
        return refresh

    def _read_some(self, collection: Collection, folder: Folder, refresh: _Refresh) -> None:
        until = time.monotonic() + STEP_SECONDS
        for _ in range(STEP_FILES):
            if not refresh.unread or time.monotonic() > until:
                return
            self._ingest.file(collection, folder, refresh.unread[0])
            refresh.unread.popleft()

    def _finish(self, collection_id: str, requested_at: datetime | None, error: str | None) -> None:
        with self._database.session() as session:
            files.record_refresh(session, collection_id, requested_at, error)
        _log.info("collection_refreshed", collection=collection_id, error=error)
