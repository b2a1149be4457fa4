"""The conductor: takes bulk jobs from their source to their bundle. `python -m worker.bulk.conductor`

Any number may run. Idempotent: each step commits its result, and the next conductor resumes from the last
commit.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, cast

from sqlalchemy.orm import Session

from store import blobs, log
from store import bulk as bulks
from store.billing.budgets import BudgetState
from store.blobs import Blobs
from store.bulk import lifecycle, results, submission
from store.collections import files as collection_files
from store.database import Database, connect, lost
from store.errors import NoWorker, Refused
from store.settings import Settings, settings
from store.sources import folders
from store.sources.folders import Sources
from store.sources.listing import SourceUnavailable
from store.tables.bulk import Bulk, BulkItem
from store.tables.bulk_states import BulkState
from store.tables.documents import Document
from store.tables.job_states import TERMINAL
from worker.bulk import text_parts
from worker.bulk.bundling import Bundler
from worker.bulk.ingest import Ingest
from worker.bulk.source_refresh import SourceRefreshes
from worker.loops.run_forever import forever
from worker.unavailable import DATABASE_UNAVAILABLE

_log = log.get("worker.bulk.conductor")


class Conductor:
    """Advances all bulk jobs and collection refreshes."""

    def __init__(self, config: Settings, database: Database, files: Blobs, allowed: Sources) -> None:
        self._config = config
        self._database = database
        self._sources = allowed
        self._blobs = files
        self._ingest = Ingest(database, files, config.max_upload_bytes)
        self._refreshes = SourceRefreshes(database, allowed, self._ingest)
        self._bundler = Bundler(database, files, allowed)

    def round(self) -> bool:
        """One step for every collection and bulk job that is due; True if any made progress."""
        with self._database.session() as session:
            stale = collection_files.to_refresh(session)
            active = lifecycle.active(session)
        self._refreshes.keep_only({*stale, *active})
        progressed = False
        for collection_id in stale:
            progressed |= self._exclusively(collection_id, self._refresh_collection)
        for bulk_id in active:
            progressed |= self._exclusively(bulk_id, self.step)
        return progressed

    def _exclusively(self, what: str, act: Callable[[str], bool]) -> bool:
        """Runs a step unless another conductor holds the lock; an error in one must not hold up the others.

        Raises a database error only if the database is unavailable, not for a statement that it rejects.
        """
        with lifecycle.exclusive(self._database.engine, what) as mine:
            try:
                return mine and act(what)
            except Exception as error:
                if isinstance(error, DATABASE_UNAVAILABLE):
                    self._database.ping()
                _log.exception("step_failed", what=what)
                return False

    def step(self, bulk_id: str) -> bool:
        """Advances a bulk job by one step; True if there may be more to do immediately."""
        with self._database.session() as session:
            state = BulkState(session.get_one(Bulk, bulk_id).state)
        steps = {
            BulkState.LISTING: self._list,
            BulkState.RUNNING: self._run,
            BulkState.DIGESTING: self._digest,
            BulkState.BUNDLING: self._bundle,
            BulkState.CANCELLING: self._cancel,
        }
        return steps[state](bulk_id) if state in steps else False

    # Listing --------------------------------------------------------------------------------------------

    def _refresh_collection(self, collection_id: str) -> bool:
        with suppress(Refused, SourceUnavailable):  # recorded in the collection
            self._refreshes.step(collection_id, collection_id)
        return True

    def _list(self, bulk_id: str) -> bool:
        with self._database.session() as session:
            bulk = session.get_one(Bulk, bulk_id)
        code, message = None, ""
        try:
            # The round makes a retry list the source again.
            if bulk.collection_id and not self._refreshes.step(bulk.collection_id, bulk_id, bulk.round):
                return True
            with self._database.session() as session:
                lifecycle.list_items(session, bulk_id)
        except (Refused, SourceUnavailable) as away:
            code = away.code if isinstance(away, SourceUnavailable) else SourceUnavailable.code
            message = str(away)
        except Exception as error:
            if lost(error):
                raise
            self._database.ping()  # raises if the database is unavailable: the next step tries again
            _log.exception("listing_failed", bulk=bulk_id)
            code, message = (
                "internal_error",
                "An internal error occurred while the documents were listed. Retry the bulk job.",
            )
        if code is not None:
            with self._database.session() as session:
                lifecycle.fail(session, bulk_id, code, message)
        return True

    # Running --------------------------------------------------------------------------------------------

    def _run(self, bulk_id: str) -> bool:
        progressed = self._submit(bulk_id) | self._reduce(bulk_id)
        if progressed:
            return True
        with self._database.session() as session:
            if bulks.count(session, session.get_one(Bulk, bulk_id)).keys() <= TERMINAL:
                return lifecycle.move(session, bulk_id, BulkState.RUNNING, BulkState.DIGESTING)
        return False

    def _submit(self, bulk_id: str) -> bool:
        """Submits jobs for the next documents; with map-reduce, one document of many parts a transaction."""
        try:
            with self._database.session() as session:
                spent = submission.blocking_budget(session, bulk_id)
            with self._database.session() as session:
                bulk = lifecycle.enter(session, bulk_id, BulkState.RUNNING)
                if bulk is None:
                    return True
                most = 1 if bulk.strategy == "map_reduce" else lifecycle.BATCH
                items = lifecycle.pending(session, bulk_id, self._config.bulk_window, most)
                if not items:
                    return False
                using = submission.terms(session, self._config, bulk, spent)
                bulk.error_code = bulk.error_message = None  # set while it waited for a worker
                for item in items:
                    self._submit_item(session, bulk, using, item)
        except Refused as refused:
            return self._refused(bulk_id, refused)
        return True

    def _submit_item(self, session: Session, bulk: Bulk, using: submission.Terms, item: BulkItem) -> None:
        assert item.document_id is not None
        document = session.get_one(Document, item.document_id)
        if bulk.strategy != "map_reduce" or document.bytes <= self._config.bulk_part_characters:
            item.job_id = submission.submit(session, self._config, bulk, using, document.id, item.seq)
            item.state = "submitted"
            return
        there = lifecycle.parts_of(session, item)  # parts that succeeded in an earlier attempt
        with self._blobs.open(document.blob_key) as raw:
            file = io.TextIOWrapper(cast(BinaryIO, raw), encoding="utf-8", errors="replace", newline="")
            for number, text in enumerate(text_parts.split(file, self._config.bulk_part_characters)):
                if number not in there:
                    name = f"{item.path} (part {number + 1})"
                    part = self._ingest.text(session, bulk.tenant_id, text, name)
                    job_id = submission.submit(session, self._config, bulk, using, part.id, item.seq)
                    lifecycle.add_part(session, item, number, job_id)
        item.state = "mapped"

    def _reduce(self, bulk_id: str) -> bool:
        """Submits the job that combines the answers of parts, for documents whose parts have all ended."""
        with self._database.session() as session:
            ready = lifecycle.mapped(session, bulk_id)
            spent = submission.blocking_budget(session, bulk_id) if ready else None
        for found in ready:
            try:
                self._reduce_one(bulk_id, found, spent)
            except Refused as refused:
                if isinstance(refused, NoWorker):
                    return self._refused(bulk_id, refused)
                with self._database.session() as session:
                    item = lifecycle.item(session, bulk_id, found.seq, "mapped")
                    if item is not None:
                        item.state, item.error_code, item.error_message = "failed", refused.code, str(refused)
        return bool(ready)

    def _reduce_one(self, bulk_id: str, found: lifecycle.Mapped, spent: BudgetState | None) -> None:
        with self._database.session() as session:
            bulk = lifecycle.enter(session, bulk_id, BulkState.RUNNING)
            item = lifecycle.item(session, bulk_id, found.seq, "mapped")
            if bulk is None or item is None:
                return
            bad = sum(state != "succeeded" for state in found.states)
            if bad:
                item.state, item.error_code = "failed", "part_failed"
                item.error_message = f"{bad} of its {len(found.states)} parts failed."
                return
            using = submission.terms(session, self._config, bulk, spent)
            text = text_parts.joined([(f"Part {n}", one) for n, one in enumerate(found.answers, 1)])
            document = self._ingest.text(session, bulk.tenant_id, text, f"{found.path} (parts)")
            item.job_id = submission.submit(session, self._config, bulk, using, document.id, item.seq)
            item.state = "submitted"

    def _refused(self, bulk_id: str, refused: Refused) -> bool:
        """After a refused job: without a worker the bulk job waits, otherwise its pending documents fail."""
        with self._database.session() as session:
            if isinstance(refused, NoWorker):
                lifecycle.wait_for(session, bulk_id, refused)
                return False
            lifecycle.refuse_pending(session, bulk_id, refused)
        _log.warning("bulk_refused", bulk=bulk_id, code=refused.code)
        return True

    # Ending ---------------------------------------------------------------------------------------------

    def _digest(self, bulk_id: str) -> bool:
        try:
            with self._database.session() as session:
                spent = submission.blocking_budget(session, bulk_id)
            with self._database.session() as session:
                bulk = lifecycle.enter(session, bulk_id, BulkState.DIGESTING)
                if bulk is None:
                    return True
                found = results.digest(session, bulk)
                if found is not None and found[0].state not in TERMINAL:
                    return False
                if found is None and bulk.digest and bulk.digest_error is None:
                    self._begin_digest(session, bulk, spent)
                else:
                    bulk.state = BulkState.BUNDLING
        except Refused as refused:
            with self._database.session() as session:
                if isinstance(refused, NoWorker):
                    lifecycle.wait_for(session, bulk_id, refused)
                    return False
                lifecycle.lock(session, bulk_id).digest_error = refused.message
        return True

    def _begin_digest(self, session: Session, bulk: Bulk, spent: BudgetState | None) -> None:
        lines = results.all_lines(session, bulk)
        done = [line for line in lines if line.state == "succeeded"]
        if len(done) < 2:
            bulk.digest_error = "A digest needs at least two succeeded documents."
            return
        using = submission.terms(session, self._config, bulk, spent)
        summary = using.admitted.summary_prompts
        text = text_parts.joined([(line.path, line.answers[:summary]) for line in done])
        document = self._ingest.text(session, bulk.tenant_id, text, "summaries.txt")
        bulk.error_code = bulk.error_message = None  # set while it waited for a worker
        bulk.digest_document_id = document.id
        bulk.digest_job_id = submission.submit(
            session, self._config, bulk, submission.without_questions(using), document.id, None
        )

    def _bundle(self, bulk_id: str) -> bool:
        self._bundler.finish(bulk_id)
        return True

    def _cancel(self, bulk_id: str) -> bool:
        with self._database.session() as session:
            if not lifecycle.cancel_rest(session, bulk_id):
                return False
            return lifecycle.move(session, bulk_id, BulkState.CANCELLING, BulkState.BUNDLING)


def main() -> None:
    """Conducts until SIGTERM."""
    config = settings()
    log.configure(config)
    database = connect(config)
    conductor = Conductor(config, database, blobs.connect(config), folders.connect(config))

    def step() -> None:
        with bulks.listen(database.engine) as heard:
            while True:
                begun = time.monotonic()
                progressed = conductor.round()
                if not progressed:
                    bulks.wait(heard, max(0.05, config.conductor_seconds - (time.monotonic() - begun)))

    forever("conductor", step)


if __name__ == "__main__":
    main()
