"""The conductor: takes bulk jobs from their source to their bundle. `python -m worker.bulk.conductor`

Any number may run. What each does is written at once, so one that is killed is taken over where it stopped.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, cast

from sqlalchemy.exc import InterfaceError, OperationalError
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
from worker.bulk.bundling import Finisher
from worker.bulk.ingest import Ingest
from worker.bulk.source_refresh import Refreshes
from worker.loops.run_forever import forever

_log = log.get("worker.bulk.conductor")
_AWAY = (OperationalError, InterfaceError)


class Conductor:
    """One process's view of all bulk jobs."""

    def __init__(self, config: Settings, database: Database, files: Blobs, allowed: Sources) -> None:
        self._config = config
        self._database = database
        self._sources = allowed
        self._blobs = files
        self._ingest = Ingest(database, files, config.max_upload_bytes)
        self._refreshes = Refreshes(database, allowed, self._ingest)
        self._finisher = Finisher(database, files, allowed)

    def round(self) -> bool:
        """One step for every collection and bulk job that wants one; True if any went on."""
        with self._database.session() as session:
            stale = collection_files.to_refresh(session)
            active = lifecycle.active(session)
        self._refreshes.forget_others({*stale, *active})
        went_on = False
        for collection_id in stale:
            went_on |= self._in_turn(collection_id, self._refresh_asked)
        for bulk_id in active:
            went_on |= self._in_turn(bulk_id, self.step)
        return went_on

    def _in_turn(self, what: str, act: Callable[[str], bool]) -> bool:
        """Does it unless another conductor is at it; a defect of one must not hold up the others.

        Raises what the database does only if it is away: it also fails at a statement it cannot take.
        """
        with lifecycle.exclusive(self._database.engine, what) as mine:
            try:
                return mine and act(what)
            except Exception as error:
                if isinstance(error, _AWAY):
                    self._database.ping()
                _log.exception("step_failed", what=what)
                return False

    def step(self, bulk_id: str) -> bool:
        """Takes a bulk job a little further; True if there may be more to do at once."""
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

    def _refresh_asked(self, collection_id: str) -> bool:
        with suppress(Refused, SourceUnavailable):  # the collection says it
            self._refreshes.step(collection_id, collection_id)
        return True

    def _list(self, bulk_id: str) -> bool:
        with self._database.session() as session:
            bulk = session.get_one(Bulk, bulk_id)
        code, message = None, ""
        try:
            # A retry looks anew.
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
            self._database.ping()  # if it is away, the next step may do better
            _log.exception("listing_failed", bulk=bulk_id)
            code, message = "internal_error", "The service failed while it listed the documents; retry it."
        if code is not None:
            with self._database.session() as session:
                lifecycle.fail(session, bulk_id, code, message)
        return True

    # Running --------------------------------------------------------------------------------------------

    def _run(self, bulk_id: str) -> bool:
        went_on = self._submit(bulk_id) | self._reduce(bulk_id)
        if went_on:
            return True
        with self._database.session() as session:
            if bulks.count(session, session.get_one(Bulk, bulk_id)).keys() <= TERMINAL:
                return lifecycle.move(session, bulk_id, BulkState.RUNNING, BulkState.DIGESTING)
        return False

    def _submit(self, bulk_id: str) -> bool:
        """Jobs for the next documents; of those in parts one document a transaction, as it writes many."""
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
                bulk.error_code = bulk.error_message = None  # if it waited for a worker
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
        there = lifecycle.parts_of(session, item)  # of an earlier try, and read well
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
        """For documents whose parts have been read: the job that makes one answer of theirs."""
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
                item.error_message = f"{bad} of its {len(found.states)} parts could not be done."
                return
            using = submission.terms(session, self._config, bulk, spent)
            text = text_parts.joined([(f"Part {n}", one) for n, one in enumerate(found.answers, 1)])
            document = self._ingest.text(session, bulk.tenant_id, text, f"{found.path} (parts)")
            item.job_id = submission.submit(session, self._config, bulk, using, document.id, item.seq)
            item.state = "submitted"

    def _refused(self, bulk_id: str, refused: Refused) -> bool:
        """No job can be made: for want of a worker it waits, else what waits for a job has failed."""
        with self._database.session() as session:
            if isinstance(refused, NoWorker):
                lifecycle.wait_for(session, bulk_id, refused)
                return False
            lifecycle.refuse_pending(session, bulk_id, refused)
        _log.warning("bulk_refused", bulk=bulk_id, code=refused.code)
        return True

    # The end --------------------------------------------------------------------------------------------

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
            bulk.digest_error = "It takes two documents or more."
            return
        using = submission.terms(session, self._config, bulk, spent)
        summary = using.admitted.summary_prompts
        text = text_parts.joined([(line.path, line.answers[:summary]) for line in done])
        document = self._ingest.text(session, bulk.tenant_id, text, "summaries.txt")
        bulk.error_code = bulk.error_message = None  # if it waited for a worker
        bulk.digest_document_id = document.id
        bulk.digest_job_id = submission.submit(
            session, self._config, bulk, submission.without_questions(using), document.id, None
        )

    def _bundle(self, bulk_id: str) -> bool:
        self._finisher.finish(bulk_id)
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
                went_on = conductor.round()
                if not went_on:
                    bulks.wait(heard, max(0.05, config.conductor_seconds - (time.monotonic() - begun)))

    forever("conductor", step)


if __name__ == "__main__":
    main()
