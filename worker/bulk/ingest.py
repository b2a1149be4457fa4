"""Text on its way into the service: files of a source, and documents that the service writes itself."""

from __future__ import annotations

import hashlib
import io
from pathlib import PurePosixPath
from typing import IO

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from store import documents, log
from store.blobs import Blobs
from store.collections import files
from store.database import Database, lost
from store.documents.text_guard import TextGuard, kind_of
from store.errors import Refused
from store.sources.folders import Folder, Reading
from store.sources.listing import Entry, SourceUnavailable
from store.tables.collections import Collection
from store.tables.documents import Document

_CHUNK = 1 << 20
_log = log.get("worker.bulk.ingest")


class Ingest:
    """Writes blobs and their rows."""

    def __init__(self, database: Database, blobs: Blobs, max_bytes: int) -> None:
        self._database, self._blobs, self._max_bytes = database, blobs, max_bytes

    def file(self, collection: Collection, folder: Folder, entry: Entry) -> None:
        """Looks at a file of a collection's source: it is new, changed, what it was, or no document.

        Raises what the service's own database and blob store raise: that is not the file's fault.
        """
        key = (collection.id, collection.tenant_id, entry.path)
        try:
            if entry.unusable is not None:
                raise Refused("path_invalid", entry.unusable, "source")
            self._take(collection, folder, entry)
        except Refused as refused:
            # What was read and is no document is not read again until it changes.
            with self._database.session() as session:
                files.put_error(session, *key, entry.fingerprint, refused.code, str(refused))
        except SourceUnavailable as away:
            with self._database.session() as session:
                files.put_unread(session, *key, away.code, str(away))
        except (OSError, SQLAlchemyError):
            raise
        except Exception:  # a defect: the files behind this one are read all the same
            _log.exception("file_not_taken", collection=collection.id, path=entry.path)
            with self._database.session() as session:
                message = "The service failed at this file."
                files.put_unread(session, *key, "internal_error", message)

    def _take(self, collection: Collection, folder: Folder, entry: Entry) -> None:
        new = documents.new_document_id()
        kind = kind_of(entry.path)
        with folder.open(entry.path) as file:
            sha256, size = self._store(collection.tenant_id, new, file)
        try:
            wanted = self._record(collection, entry, new, kind, sha256, size)
        except Exception as error:
            if not lost(error):  # else the row may be there
                self._blobs.delete(documents.blob_key_of(collection.tenant_id, new))
            raise
        if not wanted:
            self._blobs.delete(documents.blob_key_of(collection.tenant_id, new))

    def _record(
        self, collection: Collection, entry: Entry, document_id: str, kind: str, sha256: str, size: int
    ) -> bool:
        """Says in the collection what was read; False if that is what it held already."""
        key = (collection.id, collection.tenant_id, entry.path)
        with self._database.session() as session:
            held = files.get_item(session, collection.id, entry.path)
            if held is not None and held.sha256 == sha256:
                files.record_unchanged(session, *key, entry.fingerprint)
                return False
            row = documents.create(
                session,
                collection.tenant_id,
                document_id,
                sha256=sha256,
                size=size,
                media_type=kind,
                filename=PurePosixPath(entry.path).name,
            )
            files.put(session, *key, row, entry.fingerprint)
        return True

    def text(self, session: Session, tenant_id: str, text: str, name: str) -> Document:
        """A document of the service's own, in the caller's transaction."""
        new = documents.new_document_id()
        sha256, size = self._store(tenant_id, new, io.BytesIO(text.encode()))
        return documents.create(
            session, tenant_id, new, sha256=sha256, size=size, media_type="text/plain", filename=name
        )

    def _store(self, tenant_id: str, document_id: str, file: IO[bytes] | Reading) -> tuple[str, int]:
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
