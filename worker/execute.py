"""One job in the engine: from the claimed row to a request, through its steps, to the one final write."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from store import budgets, documents, leases, ledger, log
from store.errors import LeaseLost, NotFound
from store.leases import Signal
from store.models import Job
from store.states import State
from worker.engine import RunLike, ScorerPin, Served, answers_of
from worker.lease import LeaseKeeper
from worker.process import AWAY, WorkerProcess
from worker.snapshots import key_of

_log = log.get("worker.execute")
Value = TypeVar("Value")

INTERNAL = "An unexpected error ended the job. The worker's log has the details under the job's id."
CANCELLED = "The job was cancelled. Answers given before are kept."
LATE = "The deadline passed before the job was done. Answers given before are kept."


class Execution:
    """A claimed job. `over` is true once nothing is left to do for it, for whatever reason."""

    def __init__(self, job: Job, served: Served, process: WorkerProcess, keeper: LeaseKeeper) -> None:
        assert job.lease_token is not None
        self.job = job
        self.over = False
        self.run: RunLike | None = None
        self._token = job.lease_token
        self._served = served
        self._process = process
        self._keeper = keeper
        self._files = ExitStack()
        self._scorer: ScorerPin | None = None
        self._base: dict[str, Any] = {}  # usage of the attempts before, as the snapshot holds it
        self._resumed = False
        self._reported = 0.0  # monotonic time of the last progress write
        self._phase_began = (0.0, 0, "")  # monotonic time, tokens read then, phase: for the speed
        self._snapshot_tokens = self._snapshots = 0
        self._load_seconds = 0.0  # of the model, if it was loaded for this job
        self._log = _log.bind(job=job.id, attempt=job.attempt, token=self._token)
        keeper.hold(job.id, self._token)

    # What drain calls -------------------------------------------------------------------------------

    def start(self) -> None:
        """Pins the scorer, fetches the document and puts the job into the engine."""
        self._guard(self._start)

    def stepped(self) -> None:
        """After a step of the engine: report, snapshot, and heed cancellation, deadline and lost leases."""
        self._guard(self._stepped)

    def done(self) -> None:
        """The engine is done with the run: write how it ended."""
        self._guard(self._done)

    def broke(self, error: BaseException, *, guilty: bool) -> None:
        """The engine raised; without proof that it was this job, it may be tried again."""
        if self.run is not None and self._at_snapshot(self.run):
            guilty = False
            self._guard(self._distrust_snapshot)
        if self.over:
            return
        if guilty:
            self._guard(lambda: self._finish(State.FAILED, "internal_error", INTERNAL))
        else:
            self._guard(lambda: self._release(lost=True))

    def give_back(self) -> None:
        """The worker stops: keep what was read and let another worker go on."""
        self._guard(self._give_back)

    def abandon(self) -> None:
        """Frees the engine's slot and the files without a word to Postgres: the lease runs out by itself."""
        if not self.over:
            self._log.warning("job_abandoned")
            self._leave()

    # How it is done ---------------------------------------------------------------------------------

    def _guard(self, act: Callable[[], object]) -> None:
        """No error of one job may end the worker, and none goes unsaid."""
        try:
            act()
        except LeaseLost:
            self._log.warning("lease_lost")
            self._leave()
        except self._served.refusal as refusal:
            code, message = getattr(refusal, "code", "refused"), getattr(refusal, "message", str(refusal))
            self._last_write(code, message)
        except NotFound as error:
            self._last_write("document_missing", str(error))
        except Exception:
            self._log.exception("job_broke")
            self._last_write("internal_error", INTERNAL)

    def _last_write(self, code: str, message: str) -> None:
        try:
            self._finish(State.FAILED, code, message)
        except Exception:
            # Not even the failure could be written. The lease runs out and the reaper decides.
            self._log.exception("failure_not_written", code=code)
            self._leave()

    def _start(self) -> None:
        job, process = self.job, self._process
        self._scorer = self._served.resolve_scorer(job.policy, job.scorer_requested)
        sha256 = self._scorer.sha256 if self._scorer else None
        revision = self._served.card.revision or "unknown"
        label = self._scorer.label if self._scorer else None
        self._heed(
            self._write(
                lambda session: leases.pin(
                    session,
                    job.id,
                    self._token,
                    model_revision=revision,
                    scorer=label,
                    scorer_sha256=sha256,
                    scorer_quality=self._scorer.quality if self._scorer else None,
                )
            )
        )
        if self.over:
            return
        with process.database.session() as session:
            document = documents.of_job(session, job.document_id)
        path = self._files.enter_context(process.blobs.local(document.blob_key))
        request = self._served.make_request(job, path, self._scorer)
        snapshot = None
        if job.snapshot_key is not None:
            same = (job.snapshot_scorer_sha256, job.snapshot_model_revision) == (sha256, revision)
            if same and process.blobs.exists(job.snapshot_key):
                snapshot = self._files.enter_context(process.blobs.local(job.snapshot_key))
                self._base = job.snapshot_usage or {}
                self._resumed = True
                self._snapshot_tokens = job.snapshot_tokens or 0
        self.run = self._served.engine.admit(request, snapshot)
        self._load_seconds = process.take_load_seconds()
        self._keeper.beat(job.id, self.run.phase)
        self._log.info("job_started", policy=job.policy, scorer=label, resumed_at=self._snapshot_tokens)

    def _stepped(self) -> None:
        run = self._running()
        if self._keeper.lost(self.job.id):
            raise LeaseLost(self.job.id)
        self._keeper.beat(self.job.id, run.phase)
        saved = self._snapshot_due(run) and self._snapshot(run)
        # Whether the budget allows more is asked with the latest figures, after a cancellation was heeded.
        if saved or time.monotonic() - self._reported >= self._process.config.progress_seconds:
            self._heed(self._report(run))
        if saved and not self.over:
            self._heed_budgets()

    def _done(self) -> None:
        run = self._running()
        if run.error is not None:
            refused = isinstance(run.error, self._served.refusal)
            if not refused:
                self._log.error("job_broke", exc_info=run.error)
            if self._at_snapshot(run):
                self._distrust_snapshot()
                self._release(lost=True)
            elif refused:
                self._finish(State.FAILED, run.error.code, run.error.message)
            else:
                self._finish(State.FAILED, "internal_error", INTERNAL)
            return
        self._keeper.beat(self.job.id, "finalizing")
        self._report(run)
        signal = self._write(lambda session: leases.finalize(session, self.job.id, self._token))
        if signal.cancel:
            self._finish(State.CANCELLED, "cancelled", CANCELLED)
        else:
            self._finish(State.SUCCEEDED, None, None)

    def _heed(self, signal: Signal) -> None:
        if signal.cancel:
            self._finish(State.CANCELLED, "cancelled", CANCELLED)
        elif signal.late:
            self._finish(State.EXPIRED, "deadline_passed", LATE)

    def _heed_budgets(self) -> None:
        job = self.job
        scope = (job.tenant_id, job.project, job.api_key_id)
        spent = self._write(lambda session: budgets.stopping(session, *scope))
        if spent is None:
            return
        if spent.budget.action == budgets.Action.REJECT:
            self._finish(State.FAILED, "budget_exceeded", f"{spent} Answers given before are kept.")
        else:
            self._release(lost=False, held_by=spent.budget.id)

    def _report(self, run: RunLike) -> Signal:
        now = time.monotonic()
        began, tokens, phase = self._phase_began
        if phase != run.phase:
            self._phase_began = (now, run.tokens_read, run.phase)
            speed = None
        else:
            speed = (run.tokens_read - tokens) / (now - began) if run.tokens_read > tokens else None
        signal = self._write(
            lambda session: leases.progress(
                session,
                self.job.id,
                self._token,
                phase=run.phase,
                tokens_done=run.tokens_read,
                tokens_total=run.tokens_total or None,
                tokens_per_second=speed,
                usage=self._share(),
                answers=self._answers(),
            )
        )
        self._reported = time.monotonic()
        return signal

    def _snapshot_due(self, run: RunLike) -> bool:
        every = self._process.config.snapshot_chunks * self._process.config.chunk_tokens
        fresh = run.tokens_read - self._snapshot_tokens
        # Once more when all is read: answering then never has to read again.
        return (run.phase == "reading" and fresh >= every) or (
            run.phase == "answering" and run.tokens_read >= every and fresh > 0
        )

    def _snapshot(self, run: RunLike) -> bool:
        """Whether there is a new one."""
        blobs = self._process.blobs
        self._snapshots += 1
        key = key_of(self.job, run.tokens_read, self._snapshots)
        self._snapshot_tokens = run.tokens_read
        held = run.usage.to_dict()  # what the snapshot holds: writing it is not yet in it
        try:
            with blobs.create_path(key) as path:
                run.snapshot(path)
        except OSError as error:
            # A full disk costs the safety net, not the job.
            self._log.warning("snapshot_failed", error=str(error))
            return False
        try:
            before = self._write(
                lambda session: leases.record_snapshot(
                    session,
                    self.job.id,
                    self._token,
                    key=key,
                    tokens=run.tokens_read,
                    usage=self._share(),
                    total_usage=held,
                )
            )
        except LeaseLost:
            blobs.delete(key)
            raise
        if before is not None and before != key:
            blobs.delete(before)
        return True

    def _at_snapshot(self, run: RunLike) -> bool:
        """Whether it failed before it got past its snapshot: perhaps only that is bad, so do without it."""
        return self._resumed and run.tokens_read == 0

    def _distrust_snapshot(self) -> None:
        key = self.job.snapshot_key
        self._log.warning("snapshot_dropped", key=key)
        self._write(lambda session: leases.drop_snapshot(session, self.job.id, self._token))
        if key is not None:
            self._process.blobs.delete(key)

    def _give_back(self) -> None:
        run = self.run
        reading = run is not None and run.phase == "reading" and run.tokens_read > self._snapshot_tokens
        if run is not None and (reading or run.phase == "answering"):
            self._snapshot(run)
        self._release(lost=False)

    def _release(self, *, lost: bool, held_by: str | None = None) -> None:
        usage = self._share()
        terms: dict[str, Any] = {"usage": usage, "lost": lost, "message": INTERNAL, "held_by": held_by}
        self._write(lambda session: leases.release(session, self.job.id, self._token, **terms))
        self._log.info("job_released", lost=lost, held_by=held_by)
        self._leave()

    def _finish(self, state: State, code: str | None, message: str | None) -> None:
        run = self.run
        self._write(
            lambda session: leases.finish(
                session,
                self.job.id,
                self._token,
                state,
                answers=self._answers(),
                usage=self._share(),
                total_usage=run.usage.to_dict() if run else None,
                code=code,
                message=message,
            )
        )
        self._log.info("job_ended", state=state.value, code=code)
        self._leave()

    def _leave(self) -> None:
        self.over = True
        self._keeper.drop(self.job.id)
        if self.run is not None:
            self._served.engine.release(self.run)
        self._files.close()

    def _running(self) -> RunLike:
        assert self.run is not None
        return self.run

    def _share(self) -> dict[str, Any]:
        """What this attempt has used itself, without what its snapshot brought along."""
        if self.run is None:
            return {}
        own = ledger.share(self.run.usage.to_dict(), self._base)
        if self._load_seconds:
            own["seconds"]["load"] = self._load_seconds
        return own

    def _answers(self) -> list[dict[str, Any]]:
        return answers_of(self.run) if self.run else []

    def _write(self, act: Callable[[Session], Value]) -> Value:
        """One transaction; when Postgres stays away as long as a lease lasts, the lease counts as lost."""
        try:
            return self._process.transaction(act)
        except AWAY as error:
            raise LeaseLost("Postgres did not answer for as long as a lease lasts.") from error
