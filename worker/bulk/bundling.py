"""The end of a bulk job: its bundle is written, and delivered where somebody wants it."""

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
from worker.bulk.bundle import Digest, Facts
from worker.jobs.key_points import with_points

_log = log.get("worker.bulk.bundling")


class Finisher:
    """Writes bundles from what is in the database and the blobs."""

    def __init__(self, database: Database, files: Blobs, allowed: Sources) -> None:
        self._database, self._blobs, self._sources = database, files, allowed

    def finish(self, bulk_id: str) -> None:
        """Writes the bundle, delivers it and ends the bulk job. May be repeated."""
        with self._database.session() as session:
            bulk = session.get_one(Bulk, bulk_id)
            facts = Facts(
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
                    yield self.in_the_original(session, line, facts.summary_prompts)

        folder = bundle.write(self._blobs, facts, pages)
        error = self._deliver(bulk, folder)
        with self._database.session() as session:
            lifecycle.end(session, bulk_id, folder, error)
        _log.info("bulk_ended", bulk=bulk_id, counts=facts.counts, delivery_error=error)

    def in_the_original(self, session: Session, line: Line, summary_prompts: int) -> Line:
        """Of a document in parts: its points with where they stand in it, not in its parts' answers."""
        if not line.parts or not line.answers:
            return line
        document = session.get_one(Document, line.document_id)
        with self._blobs.local(document.blob_key) as path:
            return replace(line, answers=with_points(line.answers, summary_prompts, path))

    def _deliver(self, bulk: Bulk, folder: str) -> str | None:
        """Copies the bundle to where it is wanted; gives why it could not."""
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
        return Digest(missing=bulk.digest_error or "The bulk job ended before it.")
    job, result = found
    if result is None or not result.complete:
        return Digest(missing=job.error_message or f"Its job is {job.state}.")
    return Digest(answers=result.answers)
