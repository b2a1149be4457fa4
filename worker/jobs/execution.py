"""Runs one claimed job: prepares the request, follows its steps in the engine, writes the result once."""

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
from worker.engine.process import WorkerProcess
from worker.jobs.key_points import with_key_points
from worker.jobs.lease_keeper import LeaseKeeper
from worker.jobs.snapshots import Snapshots
from worker.scorers import resolver, shadow_runs
from worker.unavailable import DATABASE_UNAVAILABLE

_log = log.get("worker.jobs.execution")
Value = TypeVar("Value")

INTERNAL = "An unexpected error ended the job. The worker's log has the details under the job's id."
CANCELLED = "The job was cancelled. Answers given before are kept."
LATE = "The deadline passed before the job finished. Answers given before are kept."


class Execution:
    """A claimed job.

    Attributes:
        ended: true once nothing is left to do for the job, for whatever reason.
        shadow: the shadow run to make, once the job has succeeded and its result is written.
    """

    def __init__(self, job: Job, served: Served, process: WorkerProcess, keeper: LeaseKeeper) -> None:
        assert job.lease_token is not None
        self.job = job
        self.ended = False
        self.run: RunLike | None = None
        self.shadow: shadow_runs.ShadowTask | None = None
        self._token = job.lease_token
        self._served = served
        self._process = process
        self._keeper = keeper
        self._files = ExitStack()
        self._document: Path | None = None
        self._resolved = resolver.Resolved(None)
        self._snapshots = Snapshots(job, process, self._write)
        self._reported = 0.0  # monotonic time of the last progress write
        self._phase_began = (0.0, 0, "")  # monotonic time, tokens read by then, phase: to compute the speed
        self._load_seconds = 0.0  # of the model, if it was loaded for this job
        self._log = _log.bind(job=job.id, attempt=job.attempt, token=self._token)
        keeper.hold(job.id, self._token)

    # Called by the claim loop ------------------------------------------------------------------------

    def start(self) -> None:
        """Chooses and pins the scorer, fetches the document and admits the job to the engine."""
        self._run_safely(self._start)

    def stepped(self) -> None:
        """After a step of the engine: reports progress, takes snapshots, obeys cancellation and deadline."""
        self._run_safely(self._stepped)

    def done(self) -> None:
        """After the engine has finished the run: writes the result."""
        self._run_safely(self._done)

    def engine_failed(self, error: BaseException, *, at_fault: bool, counts_as_lost: bool = True) -> None:
        """The engine raised. The job fails if it is `at_fault`, otherwise it is released to be tried again;
        `counts_as_lost` decides whether this uses up an attempt."""
        if self.run is not None and self._snapshots.may_be_damaged(self.run):
            at_fault = False
            self._run_safely(self._snapshots.discard)
        if self.ended:
            return
        if at_fault:
            self._run_safely(lambda: self._finish(State.FAILED, "internal_error", INTERNAL))
        else:
            self._run_safely(lambda: self._release(lost=counts_as_lost))

    def hand_back(self) -> None:
        """The worker stops: keeps what was read, so that another worker can resume the job."""
        self._run_safely(self._hand_back)

    def abandon(self) -> None:
        """Frees the engine's slot and the files without a write to Postgres: the lease expires by itself."""
        if not self.ended:
            self._log.warning("job_abandoned")
            self._close()

    # Implementation ---------------------------------------------------------------------------------

    def _run_safely(self, act: Callable[[], object]) -> None:
        """Turns every error of the job into its end or release: no job may end the worker."""
        try:
            act()
        except LeaseLost:
            self._log.warning("lease_lost")
            self._close()
        except resolver.BegunScorerMissing as error:
            self._refuse(error.code, str(error))
        except self._served.refusal as refusal:
            code, message = getattr(refusal, "code", "refused"), getattr(refusal, "message", str(refusal))
            self._fail(code, message)
        except DATABASE_UNAVAILABLE:
            self._log.warning("database_unavailable")  # for as long as a lease lasts
            self._close()
        except NotFound as error:
            self._fail("document_missing", str(error))
        except Exception:
            self._log.exception("job_failed")
            self._fail("internal_error", INTERNAL)

    def _refuse(self, code: str, message: str) -> None:
        """Releases the job to a worker that can run it."""
        self._log.warning("job_refused", code=code, cause=message)
        self._run_safely(lambda: self._release(lost=False, refused=code, message=message))

    def _fail(self, code: str, message: str) -> None:
        try:
            self._finish(State.FAILED, code, message)
        except Exception:
            # Not even the failure could be written: the lease expires, and the reaper decides.
            self._log.exception("failure_not_written", code=code)
            self._close()

    def _start(self) -> None:
        job, process = self.job, self._process
        self._choose_policy()
        self._resolved = resolver.resolve(process, self._served, job)
        scorer = self._resolved.pin
        sha256 = scorer.sha256 if scorer else None
        revision = self._served.card.revision or "unknown"
        label = scorer.label if scorer else None
        self._obey(
            self._write(
                lambda session: leases.pin(
                    session,
                    job.id,
                    self._token,
                    model_revision=revision,
                    scorer=label,
                    scorer_sha256=sha256,
                    scorer_quality=scorer.quality if scorer else None,
                    policy=job.policy,
                    policy_reason=job.policy_reason,
                )
            )
        )
        if self.ended:
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

    def _choose_policy(self) -> None:
        """The default of the model, which was not known when the job was submitted. `pin` records it."""
        card = self._served.card
        if self.job.policy_pending and card.default_policy is not None:
            self.job.policy, self.job.policy_reason = card.default_policy, card.default_policy_reason

    def _stepped(self) -> None:
        run = self._running()
        if self._keeper.lost(self.job.id):
            raise LeaseLost(self.job.id)
        self._keeper.beat(self.job.id, run.phase)
        saved = self._snapshots.due(run) and self._snapshots.write(run, self._own_usage)
        # The budget is checked with the latest figures, and after a cancellation has been obeyed.
        if saved or time.monotonic() - self._reported >= self._process.config.progress_seconds:
            self._obey(self._report(run))
        if saved and not self.ended:
            self._obey_budgets()

    def _done(self) -> None:
        run = self._running()
        if run.error is not None:
            refused = isinstance(run.error, self._served.refusal)
            if not refused:
                self._log.error("job_failed", exc_info=run.error)
            if self._snapshots.may_be_damaged(run):
                self._snapshots.discard()
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
            self._request_shadow_run()

    def _request_shadow_run(self) -> None:
        version, pin = self._resolved.shadow, self._resolved.pin
        if version is not None and pin is not None:
            texts = [answer["text"] for answer in self._answers()]
            self.shadow = shadow_runs.ShadowTask(self.job, version, pin.label, texts)

    def _obey(self, signal: Signal) -> None:
        if signal.cancel:
            self._finish(State.CANCELLED, "cancelled", CANCELLED)
        elif signal.late:
            self._finish(State.EXPIRED, "deadline_passed", LATE)

    def _obey_budgets(self) -> None:
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
                usage=self._own_usage(),
                answers=self._answers(),
            )
        )
        self._reported = time.monotonic()
        return signal

    def _hand_back(self) -> None:
        run = self.run
        reading = run is not None and run.phase == "reading" and run.tokens_read > self._snapshots.tokens
        if run is not None and (reading or run.phase == "answering"):
            self._snapshots.write(run, self._own_usage)
        self._release(lost=False)

    def _release(
        self,
        *,
        lost: bool,
        held_by: str | None = None,
        refused: str | None = None,
        message: str = INTERNAL,
    ) -> None:
        usage = self._own_usage()
        terms: dict[str, Any] = {"usage": usage, "lost": lost, "message": message, "held_by": held_by}
        terms["refused"] = refused
        self._write(lambda session: leases.release(session, self.job.id, self._token, **terms))
        self._log.info("job_released", lost=lost, held_by=held_by)
        self._close()

    def _finish(self, state: State, code: str | None, message: str | None) -> None:
        run, answers = self.run, self._answers()
        if answers and self.job.summary_prompts and self._document is not None:
            answers = with_key_points(answers, self.job.summary_prompts, self._document)
        self._write(
            lambda session: leases.finish(
                session,
                self.job.id,
                self._token,
                state,
                answers=answers,
                usage=self._own_usage(),
                total_usage=run.usage.to_dict() if run else None,
                code=code,
                message=message,
            )
        )
        self._log.info("job_ended", state=state.value, code=code)
        self._close()

    def _close(self) -> None:
        self.ended = True
        self._keeper.drop(self.job.id)
        if self.run is not None:
            self._served.engine.release(self.run)
        self._files.close()

    def _running(self) -> RunLike:
        assert self.run is not None
        return self.run

    def _own_usage(self) -> dict[str, Any]:
        """What this attempt itself has used, without the usage that its snapshot carried over."""
        if self.run is None:
            return {}
        own = ledger.share(self.run.usage.to_dict(), self._snapshots.base)
        answers = self.run.answers
        own |= {"answers": len(answers), "answers_at_risk": sum(answer.at_risk for answer in answers)}
        if self._load_seconds:
            own["seconds"]["load"] = self._load_seconds
        return own

    def _answers(self) -> list[dict[str, Any]]:
        return answers_of(self.run) if self.run else []

    def _write(self, act: Callable[[Session], Value]) -> Value:
        """One transaction; if Postgres is unavailable for as long as a lease lasts, the lease counts as
        lost."""
        try:
            return self._process.transaction(act)
        except DATABASE_UNAVAILABLE as error:
            raise LeaseLost("Postgres was unavailable for as long as a lease lasts.") from error
