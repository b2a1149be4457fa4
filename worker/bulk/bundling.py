"""Ends a bulk job: writes its bundle, and delivers it if a destination was given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sqlalchemy.orm import Session

from store import bulk as bulks
from store import log
from store.blobs import Blobs
from store.bulk import lifecycle, results, submission
from store.bulk.results import Line
from store.database import Database
from store.errors import Refused
from store.sources.folders import Sources
from store.sources.listing import SourceUnavailable
from store.tables.bulk import Bulk
from store.tables.documents import Document
from worker.bulk import bundle
from worker.bulk.bundle import BundleInputs, Digest
from worker.jobs.key_points import with_key_points

_log = log.get("worker.bulk.bundling")


class Bundler:
    """Writes bundles from the database and the blobs."""

    def __init__(self, database: Database, files: Blobs, allowed: Sources) -> None:
        self._database, self._blobs, self._sources = database, files, allowed

    def finish(self, bulk_id: str) -> None:
        """Writes the bundle, delivers it and ends the bulk job. Idempotent."""
        with self._database.session() as session:
            bulk = session.get_one(Bulk, bulk_id)
            inputs = BundleInputs(
                bulk=bulk,
                counts=bulks.count(session, bulk),
                spent=results.all_spent(session, bulk.tenant_id, bulk_id),
                digest=_digest_of(session, bulk),
                gone=results.gone(session, bulk),
                summary_prompts=submission.summary_prompts(session, bulk_id),
            )

        def pages() -> Iterator[Line]:
            with self._database.session() as session:
                for line in results.all_lines(session, bulk):
                    yield self.locate_key_points(session, line, inputs.summary_prompts)

        folder = bundle.write(self._blobs, inputs, pages)
        error = self._deliver(bulk, folder)
        with self._database.session() as session:
            lifecycle.end(session, bulk_id, folder, error)
        _log.info("bulk_ended", bulk=bulk_id, counts=inputs.counts, delivery_error=error)

    def locate_key_points(self, session: Session, line: Line, summary_prompts: int) -> Line:
        """For a document read in parts: locates its key points in the document itself, not in the parts'
        answers."""
        if not line.parts or not line.answers:
            return line
        document = session.get_one(Document, line.document_id)
        with self._blobs.local(document.blob_key) as path:
            return replace(line, answers=with_key_points(line.answers, summary_prompts, path))

    def _deliver(self, bulk: Bulk, folder: str) -> str | None:
        """Copies the bundle to its destination; returns the error that prevented it."""
        if bulk.destination is None:
            return None
        try:
            target = self._sources.folder(bulk.tenant_id, bulk.destination, write=True)
            for name in bundle.FILES:
                with self._blobs.local(f"{folder}/{name}") as path:
                    target.put(f"{bulk.id}/{name}", path)
        except (Refused, SourceUnavailable) as error:
            return str(error)
        return None


def _digest_of(session: Session, bulk: Bulk) -> Digest | None:
    if not bulk.digest:
        return None
    found = results.digest(session, bulk)
    if found is None:
        return Digest(missing=bulk.digest_error or "The bulk job ended before it was written.")
    job, result = found
    if result is None or not result.complete:
        return Digest(missing=job.error_message or f"Its job is {job.state}.")
    return Digest(answers=result.answers)
