"""Looks at the sources of collections, a step at a time: whoever else waits gets a turn in between."""

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
_DEFECT = "The service failed while it looked at the source."

_log = log.get("worker.bulk.source_refresh")


@dataclass(frozen=True)
class _Look:
    """A look at a source that is under way."""

    which: Hashable
    asked_at: datetime | None  # the refresh that it answers; one asked for later wants another look
    left: deque[Entry]  # to be read


class Refreshes:
    """The looks at sources that this process has begun.

    What is left of each is kept here only: another process begins anew, and finds most files settled.
    """

    def __init__(self, database: Database, sources: Sources, ingest: Ingest) -> None:
        self._database, self._sources, self._ingest = database, sources, ingest
        self._looks: dict[str, _Look] = {}

    def forget_others(self, names: Names[str]) -> None:
        """Drops what is left of looks that nobody waits for any more."""
        self._looks = {name: look for name, look in self._looks.items() if name in names}

    def step(self, collection_id: str, name: str, which: Hashable = None) -> bool:
        """Goes on with the look `name`, or begins it if it is not the same `which`; True once it is done.

        Raises Refused, SourceUnavailable, and whatever else: the collection then says why.
        """
        with self._database.session() as session:
            collection = session.get(Collection, collection_id)
        if collection is None or collection.source is None:
            return True
        try:
            folder = self._sources.folder(collection.tenant_id, collection.source)
            look = self._look(collection, folder, name, which or collection.refresh_requested_at)
            self._read_some(collection, folder, look)
        except Exception as error:
            self._looks.pop(name, None)
            if lost(error):  # the next step may do better
                raise
            self._database.ping()
            why = str(error) if isinstance(error, Refused | SourceUnavailable) else _DEFECT
            self._end(collection_id, collection.refresh_requested_at, why)
            raise
        if look.left:
            return False
        del self._looks[name]
        self._end(collection_id, look.asked_at, None)
        return True

    def _look(self, collection: Collection, folder: Folder, name: str, which: Hashable) -> _Look:
        look = self._looks.get(name)
        if look is None or look.which != which:
            entries = folder.entries(collection.glob)
            with self._database.session() as session:
                left = files.record_listing(session, collection, entries)
            look = self._looks[name] = _Look(which, collection.refresh_requested_at, deque(left))
        return look

    def _read_some(self, collection: Collection, folder: Folder, look: _Look) -> None:
        until = time.monotonic() + STEP_SECONDS
        for _ in range(STEP_FILES):
            if not look.left or time.monotonic() > until:
                return
            self._ingest.file(collection, folder, look.left[0])
            look.left.popleft()

    def _end(self, collection_id: str, asked_at: datetime | None, error: str | None) -> None:
        with self._database.session() as session:
            files.record_refresh(session, collection_id, asked_at, error)
        _log.info("collection_refreshed", collection=collection_id, error=error)
