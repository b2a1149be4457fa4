"""One job in the engine: from the claimed row to a request, through its steps, to the one final write."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from store import documents, log
from store.billing import budgets, ledger
from store.errors import LeaseLost, NotFound
from store.jobs import leases
from store.jobs.leases import Signal
from store.tables.job_states import State
from store.tables.jobs import Job
from worker.engine import Served
from worker.engine.interface import RunLike, answers_of
from worker.engine.process import AWAY, WorkerProcess
from worker.jobs.key_points import with_points
from worker.jobs.lease_keeper import LeaseKeeper
from worker.jobs.snapshots import Snapshots
from worker.scorers import resolver, shadow_runs

_log = log.get("worker.jobs.execution")
Value = TypeVar("Value")

INTERNAL = "An unexpected error ended the job. The worker's log has the details under the job's id."
CANCELLED = "The job was cancelled. Answers given before are kept."
LATE = "The deadline passed before the job was done. Answers given before are kept."


class Execution:
    """A claimed job.

    Attributes:
        over: true once nothing is left to do for it, for whatever reason.
        shadow: once it has been answered and written, the canary that is to read it again.
    """

    def __init__(self, job: Job, served: Served, process: WorkerProcess, keeper: LeaseKeeper) -> None:
        assert job.lease_token is not None
        self.job = job
        self.over = False
        self.run: RunLike | None = None
        self.shadow: shadow_runs.Task | None = None
        self._token = job.lease_token
        self._served = served
        self._process = process
        self._keeper = keeper
        self._files = ExitStack()
        self._document: Path | None = None
        self._chosen = resolver.Chosen(None)
        self._snapshots = Snapshots(job, process, self._write)
        self._reported = 0.0  # monotonic time of the last progress write
        self._phase_began = (0.0, 0, "")  # monotonic time, tokens read then, phase: for the speed
        self._load_seconds = 0.0  # of the model, if it was loaded for this job
        self._log = _log.bind(job=job.id, attempt=job.attempt, token=self._token)
        keeper.hold(job.id, self._token)

    # What drain calls -------------------------------------------------------------------------------

    def start(self) -> None:
        """Decides on the scorer and pins it, fetches the document and puts the job into the engine."""
        self._guard(self._start)

    def stepped(self) -> None:
        """After a step of the engine: report, snapshot, and heed cancellation, deadline and lost leases."""
        self._guard(self._stepped)

    def done(self) -> None:
        """The engine is done with the run: write how it ended."""
        self._guard(self._done)

    def broke(self, error: BaseException, *, guilty: bool, counted: bool = True) -> None:
        """The engine raised; without proof that it was this job, it may be tried again. Whether that is
        `counted` decides if it may be tried so often only."""
        if self.run is not None and self._snapshots.suspect(self.run):
            guilty = False
            self._guard(self._snapshots.distrust)
        if self.over:
            return
        if guilty:
            self._guard(lambda: self._finish(State.FAILED, "internal_error", INTERNAL))
        else:
            self._guard(lambda: self._release(lost=counted))

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
        except resolver.NotAtHand as error:
            self._refuse(error.code, str(error))
        except self._served.refusal as refusal:
            code, message = getattr(refusal, "code", "refused"), getattr(refusal, "message", str(refusal))
            self._last_write(code, message)
        except AWAY:
            self._log.warning("database_away")  # for as long as a lease lasts
            self._leave()
        except NotFound as error:
            self._last_write("document_missing", str(error))
        except Exception:
            self._log.exception("job_broke")
            self._last_write("internal_error", INTERNAL)

    def _refuse(self, code: str, message: str) -> None:
        """Leaves the job to a worker that can do it."""
        self._log.warning("job_refused", code=code, cause=message)
        self._guard(lambda: self._release(lost=False, refused=code, message=message))

    def _last_write(self, code: str, message: str) -> None:
        try:
            self._finish(State.FAILED, code, message)
        except Exception:
            # Not even the failure could be written. The lease runs out and the reaper decides.
            self._log.exception("failure_not_written", code=code)
            self._leave()

    def _start(self) -> None:
        job, process = self.job, self._process
        self._chosen = resolver.choose(process, self._served, job)
        scorer = self._chosen.pin
        sha256 = scorer.sha256 if scorer else None
        revision = self._served.card.revision or "unknown"
        label = scorer.label if scorer else None
        self._heed(
            self._write(
                lambda session: leases.pin(
                    session,
                    job.id,
                    self._token,
                    model_revision=revision,
                    scorer=label,
                    scorer_sha256=sha256,
                    scorer_quality=scorer.quality if scorer else None,
                )
            )
        )
        if self.over:
            return
        with process.database.session() as session:
            document = documents.of_job(session, job.document_id)
        self._document = self._files.enter_context(process.blobs.local(document.blob_key))
        request = self._served.make_request(job, self._document, scorer)
        key = self._snapshots.to_resume(sha256, revision)
        snapshot = self._files.enter_context(process.blobs.local(key)) if key is not None else None
        self.run = self._served.engine.admit(request, snapshot)
        self._load_seconds = process.take_load_seconds()
        self._keeper.beat(job.id, self.run.phase)
        self._log.info("job_started", policy=job.policy, scorer=label, resumed_at=self._snapshots.tokens)

    def _stepped(self) -> None:
        run = self._running()
        if self._keeper.lost(self.job.id):
            raise LeaseLost(self.job.id)
        self._keeper.beat(self.job.id, run.phase)
        saved = self._snapshots.due(run) and self._snapshots.take(run, self._share)
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
            if self._snapshots.suspect(run):
                self._snapshots.distrust()
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
            self._cast_shadow()

    def _cast_shadow(self) -> None:
        version, pin = self._chosen.shadow, self._chosen.pin
        if version is not None and pin is not None:
            texts = [answer["text"] for answer in self._answers()]
            self.shadow = shadow_runs.Task(self.job, version, pin.label, texts)

    def _heed(self, signal: Signal) -> None:
        if signal.cancel:
            self._finish(State.CANCELLED, "cancelled", CANCELLED)
        elif signal.late:
            self._finish(State.EXPIRED, "deadline_passed", LATE)

    def _heed_budgets(self) -> None:
        job = self.job
        scope = (job.tenant_id, job.project, job.api_key_id)
        spent = self._write(lambda session: budgets.blocking_budget(session, *scope))
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

    def _give_back(self) -> None:
        run = self.run
        reading = run is not None and run.phase == "reading" and run.tokens_read > self._snapshots.tokens
        if run is not None and (reading or run.phase == "answering"):
            self._snapshots.take(run, self._share)
        self._release(lost=False)

    def _release(
        self,
        *,
        lost: bool,
        held_by: str | None = None,
        refused: str | None = None,
        message: str = INTERNAL,
    ) -> None:
        usage = self._share()
        terms: dict[str, Any] = {"usage": usage, "lost": lost, "message": message, "held_by": held_by}
        terms["refused"] = refused
        self._write(lambda session: leases.release(session, self.job.id, self._token, **terms))
        self._log.info("job_released", lost=lost, held_by=held_by)
        self._leave()

    def _finish(self, state: State, code: str | None, message: str | None) -> None:
        run, answers = self.run, self._answers()
        if answers and self.job.summary_prompts and self._document is not None:
            answers = with_points(answers, self.job.summary_prompts, self._document)
        self._write(
            lambda session: leases.finish(
                session,
                self.job.id,
                self._token,
                state,
                answers=answers,
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
        own = ledger.share(self.run.usage.to_dict(), self._snapshots.base)
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
