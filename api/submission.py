"""From a valid request to a queued job: what only the workers' table can tell is checked here."""

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from api.answers import JobOut
from api.context import Caller, Context
from api.problems import Problem
from api.schemas import JobCreate, TaskKind
from api.storage import storing
from store import activations, budgets, documents, idempotency, jobs, scorers, workers
from store.budgets import Action, BudgetState, plain
from store.models import Document, Job
from store.scorers import USABLE
from store.workers import ModelCard

ROUTE = "POST /v1/jobs"
SUMMARIZE = "Summarize the document."
SCORED = "namm"  # policies so named score tokens with a checkpoint; the others take none


async def _raw(request: Request) -> bytes:
    return await request.body()


RawBody = Annotated[bytes, Depends(_raw)]


def submit(
    context: Context,
    caller: Caller,
    body: JobCreate,
    raw: bytes,
    key: str | None,
    shown: Callable[[Job], JobOut],
) -> tuple[JobOut, bool]:
    """Queue the job and give it as shown; True when `key` had been used for the same request before.

    Raises Problem, store.errors.NotFound for a document that is not the caller's, and IdempotencyMismatch.
    """
    # A transaction of its own: that a budget is crossed is told even if the job is refused for it.
    with context.database.session() as session:
        spent = budgets.stopping(session, caller.tenant_id, caller.project, caller.key_id)
    with ExitStack() as undo, context.database.session() as session:
        if key is not None:
            fingerprint = hashlib.sha256(json.dumps(json.loads(raw), sort_keys=True).encode()).hexdigest()
            hours = context.settings.idempotency_hours
            before = idempotency.begin(session, caller.tenant_id, ROUTE, key, fingerprint, hours)
            if before is not None:
                return JobOut.model_validate(before.body), True
        _refuse_limits(context, body)
        card = _model(context, session, body)
        _refuse_scorer(caller, session, body, card)
        held_by = _heed(spent)
        document = _document(context, caller, session, body, undo)
        job = jobs.create(session, caller.tenant_id, _new_job(context, caller, body, card, document, held_by))
        answer = shown(job)
        if key is not None:
            idempotency.complete(session, caller.tenant_id, ROUTE, key, 201, answer.model_dump(mode="json"))
        # From here only the commit can fail, and then nobody knows whether it did: better a blob too many.
        undo.pop_all()
    return answer, False


def _heed(spent: BudgetState | None) -> str | None:
    """The id of the budget that holds the job. Raises Problem for one that rejects it."""
    if spent is None:
        return None
    one = spent.budget
    if one.action == Action.REJECT:
        raise Problem(
            402,
            "budget_exceeded",
            str(spent),
            budget=one.id,
            amount=plain(one.amount),
            spent=plain(spent.spent),
            currency=one.currency,
            period_end=spent.end,
        )
    return one.id


def _new_job(
    context: Context,
    caller: Caller,
    body: JobCreate,
    card: ModelCard,
    document: Document,
    held_by: str | None,
) -> jobs.NewJob:
    prompts = {
        TaskKind.ASK: body.questions,
        TaskKind.SUMMARIZE: [SUMMARIZE],
        TaskKind.PROMPT: [body.prompt or ""],
    }[body.task]
    return jobs.NewJob(
        document_id=document.id,
        task=body.task,
        prompts=prompts,
        model=card.name,
        policy=body.policy or context.settings.default_policy,
        scorer_requested=body.scorer,
        budget=body.budget or _default_budget(context, body),
        max_output_tokens=body.max_output_tokens,
        temperature=body.temperature,
        seed=body.seed,
        priority=body.priority,
        deadline_at=body.deadline,
        tags=dict(body.metadata),
        max_attempts=context.settings.max_attempts,
        api_key_id=caller.key_id,
        project=caller.project,
        held_by_budget=held_by,
    )


def _default_budget(context: Context, body: JobCreate) -> int | None:
    """What a KV head may keep when neither client nor scorer is to say; `full` keeps everything."""
    policy = body.policy or context.settings.default_policy
    return None if policy == "full" else context.settings.default_budget


def _refuse_limits(context: Context, body: JobCreate) -> None:
    settings = context.settings
    if len(body.questions) > settings.max_prompts:
        detail = f"At most {settings.max_prompts} questions fit one job."
        raise Problem(
            422, "too_many_questions", detail, field="questions", max_questions=settings.max_prompts
        )
    if body.max_output_tokens > settings.max_output_tokens:
        detail = f"At most {settings.max_output_tokens} tokens are generated for a prompt."
        raise Problem(
            422,
            "output_too_long",
            detail,
            field="max_output_tokens",
            max_output_tokens=settings.max_output_tokens,
        )


def _model(context: Context, session: Session, body: JobCreate) -> ModelCard:
    """The card of the model asked for. Raises Problem when there is none, or it cannot do this."""
    served = workers.models(session, context.settings.worker_live_seconds)
    known = {model.card.name: model.card for model in served}
    names = sorted(known)
    # A model that nobody serves any more may be asked for by name, and waits; it is never the default.
    live = sorted(model.card.name for model in served if model.workers_live)
    if body.model is None and not live:
        detail = "No live worker has registered a model; try again in a moment, or start a worker."
        raise Problem(503, "no_worker", detail, headers={"retry-after": "5"})
    if body.model is None and len(live) > 1:
        detail = f"Say which model is meant: {', '.join(live)}."
        raise Problem(422, "model_required", detail, field="model", known_models=live)
    name = body.model or live[0]
    if name not in known and not live:
        # A worker that ends takes its models along, so for all that is known this one may come back.
        detail = f"No live worker has registered a model, '{name}' neither; try again, or start a worker."
        raise Problem(503, "no_worker", detail, headers={"retry-after": "5"})
    if name not in known:
        detail = f"No worker serves the model '{name}'. Known: {', '.join(names) or 'none'}."
        raise Problem(422, "unknown_model", detail, field="model", known_models=names)
    card = known[name]
    policy = body.policy or context.settings.default_policy
    if card.policies is not None and policy not in card.policies:
        detail = f"The model '{name}' has no policy '{policy}'. Known: {', '.join(card.policies)}."
        raise Problem(422, "unknown_policy", detail, field="policy", known_policies=card.policies)
    if body.scorer is not None and not policy.startswith(SCORED):
        detail = f"The policy '{policy}' takes no scorer; those whose name begins with '{SCORED}' do."
        raise Problem(422, "scorer_not_used", detail, field="scorer")
    if card.window is not None and body.max_output_tokens >= card.window:
        detail = f"The model '{name}' was trained on {card.window} positions; an answer has to be shorter."
        raise Problem(
            422, "output_too_long", detail, field="max_output_tokens", max_output_tokens=card.window - 1
        )
    return card


def _refuse_scorer(caller: Caller, session: Session, body: JobCreate, card: ModelCard) -> None:
    """Raises Problem for a scorer that neither the registry nor the model's workers have for this job."""
    if body.scorer is None or _in_registry(caller, session, body, body.scorer, card.name):
        return
    if card.scorers is None:
        return  # no worker has loaded the model yet, to say which ones it has
    own = [f"{scorer['name']}@{scorer['version']}" for scorer in card.scorers]
    if body.scorer in own or body.scorer in (scorer["name"] for scorer in card.scorers):
        return
    known = sorted({*own, *(scorers.label(row) for row in scorers.versions(session, states=USABLE))})
    detail = f"The model '{card.name}' has no scorer '{body.scorer}'. Known: {', '.join(known) or 'none'}."
    if "@" not in body.scorer and scorers.versions(session, name=body.scorer, states=USABLE):
        detail = f"No version of '{body.scorer}' serves jobs like this one; ask for one of them by version."
    raise Problem(422, "unknown_scorer", detail, field="scorer", known_scorers=known)


def _in_registry(caller: Caller, session: Session, body: JobCreate, asked: str, model: str) -> bool:
    """Whether the registry has the version, or one that is stable in a scope of the job.

    A canary alone does not count: it takes a share of the jobs only. Raises Problem scorer_not_verified.
    """
    name, version = scorers.split(asked)
    if version is not None:
        try:
            return activations.usable(session, name, version) is not None
        except activations.NotUsable as error:
            raise Problem(422, "scorer_not_verified", str(error), field="scorer") from None
    job = Job(tenant_id=caller.tenant_id, model=model, tags=dict(body.metadata))
    return activations.open_of(session, name, activations.scopes_of(job))[0] is not None


def _document(
    context: Context, caller: Caller, session: Session, body: JobCreate, undo: ExitStack
) -> Document:
    if body.document_id is not None:
        document = documents.get(session, caller.tenant_id, body.document_id)
        limit = context.settings.max_upload_bytes
        if document.bytes > limit:
            detail = f"The document has {document.bytes:,} bytes; this service reads {limit:,}."
            raise Problem(422, "document_too_large", detail, field="document_id", max_bytes=limit)
        return document
    text = (body.text or "").encode()
    limit = context.settings.max_inline_bytes
    if len(text) > limit:
        detail = f"Inline text may have {limit:,} bytes; upload longer documents with POST /v1/documents."
        raise Problem(413, "text_too_large", detail, field="text", max_bytes=limit)
    if not text.strip(b" \t\r\n\f\v"):
        raise Problem(422, "document_empty", "The document holds nothing but white space.", field="text")
    document_id = documents.new_document_id()
    key = documents.blob_key_of(caller.tenant_id, document_id)
    undo.callback(context.blobs.delete, key)
    with storing(), context.blobs.create(key) as file:
        file.write(text)
    return documents.create(
        session,
        caller.tenant_id,
        document_id,
        sha256=hashlib.sha256(text).hexdigest(),
        size=len(text),
        media_type="text/plain",
        filename=None,
    )
