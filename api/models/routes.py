"""Models that workers have registered."""

from fastapi import APIRouter

from api.context import CallerDep, ContextDep
from api.models.schemas import ModelList, ModelOut, ScorerOut, ServingWorkerOut
from api.problems import documented
from store import workers
from store.jobs import policy_choice
from store.settings import Settings
from store.workers import ServedModel

router = APIRouter(prefix="/v1/models", tags=["models"])


def model_out(model: ServedModel, settings: Settings) -> ModelOut:
    """A served model in the API's form."""
    card = model.card
    usual = policy_choice.default(settings, card)
    return ModelOut(
        name=card.name,
        revision=card.revision,
        window=card.window,
        vocab_size=card.vocab_size,
        dense_bytes_per_token=card.dense_bytes_per_token,
        tokenizer_sha256=card.tokenizer_sha256,
        policies=card.policies,
        scorers=None if card.scorers is None else [ScorerOut.model_validate(one) for one in card.scorers],
        default_policy=usual.policy,
        default_policy_reason=usual.reason,
        workers_live=model.workers_live,
        loaded=model.loaded,
        errors=model.errors,
        workers=[ServingWorkerOut.model_validate(one) for one in model.workers],
    )


@router.get("", responses=documented(401))
def index(context: ContextDep, caller: CallerDep) -> ModelList:
    """List the models you can name in a job, the workers that serve them now, and the service's limits."""
    settings = context.settings
    with context.database.session() as session:
        known = workers.models(session, settings.worker_live_seconds)
    return ModelList(
        data=[model_out(model, settings) for model in known],
        default_policy=settings.default_policy or policy_choice.FALLBACK,
        max_document_bytes=settings.max_upload_bytes,
        max_output_tokens=settings.max_output_tokens,
    )
