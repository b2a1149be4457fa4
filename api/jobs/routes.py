"""Jobs: submit, read, list, cancel."""

from typing import Annotated, cast

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime

from api.context import CallerDep, ContextDep
from api.http.cursors import Cursor, Limit, Pager
from api.http.idempotency import IdempotencyKey, RawBody
from api.jobs.cost_schemas import CostOut
from api.jobs.result_schemas import AnswerOut, ResultOut, WarningOut
from api.jobs.schemas import (
    JobCreate,
    JobOut,
    JobPage,
    OnRisk,
    Positions,
    ProgressOut,
    Reading,
    TaskKind,
)
from api.jobs.submission import submit
from api.problems import Problem, documented
from api.schemas import ErrorOut, Name
from store import jobs
from store.billing import ledger
from store.tables.job_states import LEASED, TERMINAL, State
from store.tables.jobs import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


def job_out(row: Job) -> JobOut:
    """A row in the API's form."""
    moments = {
        "created": row.created_at,
        "queued": row.queued_at,
        "running": row.running_at,
        "finalizing": row.finalizing_at,
        "cancel_requested": row.cancel_requested_at,
        **{state.value: getattr(row, f"{state.value}_at") for state in TERMINAL},
    }
    return JobOut(
        id=row.id,
        state=State(row.state),
        held_by=row.held_by_budget,
        document_id=row.document_id,
        task=TaskKind(row.task),
        prompts=row.prompts,
        template=row.template,
        bulk_id=row.bulk_id,
        model=row.model,
        model_revision=row.model_revision,
        policy=row.policy,
        policy_reason=row.policy_reason,
        reading=cast(Reading, row.reading),
        on_risk=cast(OnRisk, row.on_risk),
        scorer=row.scorer or row.scorer_requested,
        scorer_sha256=row.scorer_sha256,
        cache_budget=row.cache_budget,
        max_output_tokens=row.max_output_tokens,
        temperature=row.temperature,
        seed=row.seed,
        priority=row.priority,
        deadline=row.deadline_at,
        metadata=row.tags,
        attempt=row.attempt,
        positions=cast(Positions, row.positions),
        progress=_progress(row),
        error=ErrorOut(code=row.error_code, message=row.error_message or "") if row.error_code else None,
        timestamps={name: moment for name, moment in moments.items() if moment is not None},
    )


def _progress(row: Job) -> ProgressOut | None:
    if row.progress_phase is None:
        return None
    eta = None
    left = (row.progress_tokens_total or 0) - row.progress_tokens_done
    if row.state in LEASED and row.progress_tokens_total and row.progress_tokens_per_second:
        eta = max(0.0, left / row.progress_tokens_per_second)
    return ProgressOut(
        phase=row.progress_phase,
        tokens_done=row.progress_tokens_done,
        tokens_total=row.progress_tokens_total,
        tokens_per_second=row.progress_tokens_per_second,
        eta_seconds=eta,
        updated_at=row.progress_updated_at,
    )


@router.post("", status_code=201, responses=documented(400, 401, 402, 404, 413, 422, 503, 507))
def create(
    body: JobCreate,
    raw: RawBody,
    request: Request,
    response: Response,
    context: ContextDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey = None,
) -> JobOut:
    """Submit a job. It is queued until a worker of its model claims it."""
    shown, replayed = submit(context, caller, body, raw, idempotency_key, job_out)
    response.headers["location"] = request.url_for("show_job", job_id=shown.id).path
    if replayed:
        response.headers["idempotent-replayed"] = "true"
    return shown


@router.get("", responses=documented(401, 422))
def index(
    context: ContextDep,
    caller: CallerDep,
    state: Annotated[list[State] | None, Query(description="May be repeated.", max_length=8)] = None,
    model: Annotated[Name | None, Query()] = None,
    bulk_id: Annotated[str | None, Query(max_length=50, description="Only jobs of this bulk job.")] = None,
    created_from: Annotated[AwareDatetime | None, Query(description="Inclusive.")] = None,
    created_before: Annotated[AwareDatetime | None, Query(description="Exclusive.")] = None,
    cursor: Cursor = None,
    limit: Limit = 20,
) -> JobPage:
    """List your jobs, newest first. New jobs do not shift later pages."""
    states = sorted({one.value for one in state or ()})
    query = f"jobs {caller.tenant_id} {states} {model} {bulk_id} {created_from} {created_before}"
    pager = Pager(context.settings.pepper, query)
    with context.database.session() as session:
        rows = jobs.list_jobs(
            session,
            caller.tenant_id,
            states=states,
            model=model,
            bulk_id=bulk_id,
            created_from=created_from,
            created_before=created_before,
            before=pager.key(cursor),
            limit=limit + 1,
        )
    page, after = pager.cut(rows, limit, lambda row: [row.id])
    return JobPage(data=[job_out(row) for row in page], has_more=after is not None, next_cursor=after)


@router.get("/{job_id}", name="show_job", responses=documented(401, 404))
def show(job_id: str, context: ContextDep, caller: CallerDep) -> JobOut:
    """Get a job, with live progress while it runs."""
    with context.database.session() as session:
        return job_out(jobs.get(session, caller.tenant_id, job_id))


@router.get("/{job_id}/result", responses=documented(401, 404, 409))
def result(job_id: str, context: ContextDep, caller: CallerDep) -> ResultOut:
    """Get the answers of a job; `complete` is false while it runs, or if it ended early."""
    with context.database.session() as session:
        job = jobs.get(session, caller.tenant_id, job_id)
        row = jobs.result(session, caller.tenant_id, job_id)
    if row is None and job.state in TERMINAL:
        why = job.error_message or "The job ended without an answer."
        raise Problem(
            404, "no_result", f"The job is {job.state}. {why}", state=job.state, job_error=job.error_code
        )
    if row is None:
        detail = f"The job is {job.state} and has no answers yet."
        raise Problem(409, "result_not_ready", detail, headers={"retry-after": "2"}, state=job.state)
    usage = row.usage or {}
    return ResultOut(
        job_id=job.id,
        state=State(job.state),
        complete=row.complete,
        answers=[AnswerOut.model_validate(answer) for answer in row.answers],
        policy=job.policy,
        policy_reason=job.policy_reason,
        reading=usage.get("reading"),
        rereads=usage.get("rereads", 0),
        warnings=[WarningOut.model_validate(warning) for warning in usage.get("warnings", ())],
        usage=row.usage,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


@router.get("/{job_id}/cost", responses=documented(401, 404))
def cost(job_id: str, context: ContextDep, caller: CallerDep) -> CostOut:
    """Get what the job cost and what it saved, each figure with its provenance."""
    with context.database.session() as session:
        return CostOut.model_validate(ledger.cost(session, caller.tenant_id, job_id))


@router.post("/{job_id}/cancel", responses=documented(401, 404))
def cancel(job_id: str, context: ContextDep, caller: CallerDep) -> JobOut:
    """Cancel a job. Idempotent, and without effect once it has ended. Answers so far are kept."""
    with context.database.session() as session:
        return job_out(jobs.cancel(session, caller.tenant_id, job_id))
