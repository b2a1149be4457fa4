"""Text on its way into the service: files of a source, and documents that the service writes itself."""

from __future__ import annotations

import hashlib
import io
from pathlib import PurePosixPath
from typing import IO

from sqlalchemy.orm import Session

from store import collections, documents
from store.blobs import Blobs
from store.bulk_tables import Collection
from store.database import Database
from store.errors import Refused
from store.models import Document
from store.sources import Entry, Folder, SourceAway
from store.texts import TextGuard, kind_of

_CHUNK = 1 << 20


class Ingest:
    """Writes blobs and their rows."""

    def __init__(self, database: Database, blobs: Blobs, max_bytes: int) -> None:
        self._database, self._blobs, self._max_bytes = database, blobs, max_bytes

    def file(self, collection: Collection, folder: Folder, entry: Entry) -> None:
        """Looks at a file of a collection's source: it is new, changed, what it was, or no document."""
        key = (collection.id, collection.tenant_id, entry.path)
        new = documents.new_document_id()
        try:
            kind = kind_of(entry.path)
            with folder.open(entry.path) as file:
                sha256, size = self._store(collection.tenant_id, new, file)
        except (Refused, SourceAway) as error:
            # What could not be read is tried again next time; what was read and is no document is not.
            seen = entry.fingerprint if isinstance(error, Refused) else None
            with self._database.session() as session:
                collections.put_error(session, *key, seen, error.code, str(error))
            return
        with self._database.session() as session:
            held = collections.held(session, collection.id, entry.path)
            same = held is not None and held.sha256 == sha256
            if same:
                collections.keep(session, *key, entry.fingerprint)
            else:
                row = documents.create(
                    session,
                    collection.tenant_id,
                    new,
                    sha256=sha256,
                    size=size,
                    media_type=kind,
                    filename=PurePosixPath(entry.path).name,
                )
                collections.put(session, *key, row, entry.fingerprint)
        if same:
            self._blobs.delete(documents.blob_key_of(collection.tenant_id, new))

    def text(self, session: Session, tenant_id: str, text: str, name: str) -> Document:
        """A document of the service's own, in the caller's transaction."""
        new = documents.new_document_id()
        sha256, size = self._store(tenant_id, new, io.BytesIO(text.encode()))
        return documents.create(
            session, tenant_id, new, sha256=sha256, size=size, media_type="text/plain", filename=name
        )

    def read(self, document: Document) -> str:
        """A document's text."""
        with self._blobs.open(document.blob_key) as file:
            return file.read().decode("utf-8", errors="replace")

    def _store(self, tenant_id: str, document_id: str, file: IO[bytes]) -> tuple[str, int]:
        """Copies text into a blob; gives its sha256 and size. Raises Refused."""
        digest, size, guard = hashlib.sha256(), 0, TextGuard()
        with self._blobs.create(documents.blob_key_of(tenant_id, document_id)) as blob:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > self._max_bytes:
                    message = f"The document is larger than the {self._max_bytes:,} bytes this service takes."
                    raise Refused("document_too_large", message, "source")
                guard.feed(chunk)
                digest.update(chunk)
                blob.write(chunk)
            guard.finish()
        return digest.hexdigest(), size
