"""Admission: turns a request into a job that can be queued, with the checks that need the database.

REST, bulk jobs and schedules all go through here, so that the same limits, models and budgets apply.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.orm import Session

from store import prompt_templates, workers
from store.billing.budgets import Action, BudgetState, plain
from store.errors import BudgetExceeded, NoWorker, Refused
from store.jobs import policy_choice
from store.jobs.policy_choice import SCORED, Choice
from store.jobs.repository import NewJob
from store.prompt_templates import DEFAULT_WORDS, Template
from store.scorers import registry, serving
from store.scorers.registry import USABLE
from store.settings import Settings
from store.tables.jobs import Job
from store.workers import ModelCard

GUIDED, OPEN = "guided", "open"
REPORT, REREAD = "report", "reread"
DEFAULT_OUTPUT_TOKENS = 64
TOKENS_PER_WORD = 3  # generous for any language, so that no summary is cut off


@dataclass(frozen=True)
class Owner:
    """Who owns jobs, and the project they are billed to."""

    tenant_id: str
    key_id: str | None
    project: str


@dataclass(frozen=True)
class Ask:
    """What to do with a document; None leaves a choice to the service.

    Attributes:
        points, words: the size of a summary, see `store.prompt_templates`.
        reading: `guided` by the prompts or `open`, as if they were not known yet.
        on_risk: `report` that much of what a prompt attends to was evicted, or `reread` with more slots.
    """

    task: str = "ask"  # ask | summarize | prompt
    questions: tuple[str, ...] = ()
    prompt: str | None = None
    template: str | None = None  # name or name@version
    points: int = 5
    words: int | None = None
    model: str | None = None
    policy: str | None = None
    scorer: str | None = None
    cache_budget: int | None = None
    reading: str | None = None
    on_risk: str = REPORT
    max_output_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
    priority: int = 0
    deadline_at: datetime | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Admitted:
    """A valid request, with the defaults filled in."""

    ask: Ask
    card: ModelCard
    choice: Choice  # of the policy
    reading: str
    cache_budget: int | None
    prompts: list[str]
    max_output_tokens: int  # for each prompt
    template: str | None  # name@version, for a summary
    summary_prompts: int  # how many of the prompts, from the first, ask for the summary


def admit(session: Session, settings: Settings, owner: Owner, ask: Ask) -> Admitted:
    """Checks a request and fills in its defaults. Raises Refused."""
    _refuse_limits(settings, ask)
    card = _model(session, settings, ask)
    choice = policy_choice.choose(settings, card, ask.policy, ask.scorer)
    _refuse_policy(ask, card, choice.policy)
    _refuse_scorer(session, owner, ask, card)
    template, summary = None, list[str]()
    if ask.task == "summarize":
        template = _template(session, owner, ask, card)
        summary = prompt_templates.prompts_of(template, ask.points, ask.words)
    prompts = [*summary, *([ask.prompt or ""] if ask.task == "prompt" else ask.questions)]
    # None leaves the slots per KV head to the scorer; `full` keeps everything.
    cache_budget = ask.cache_budget or (None if choice.policy == "full" else settings.default_cache_budget)
    longest = _output_tokens(settings, ask, card, template)
    label = template.label if template else None
    reading = _reading(settings, ask)
    return Admitted(ask, card, choice, reading, cache_budget, prompts, longest, label, len(summary))


def check(session: Session, settings: Settings, owner: Owner, ask: Ask) -> None:
    """Like `admit`, for work that may wait for a worker. Raises Refused, but not NoWorker."""
    with suppress(NoWorker):
        admit(session, settings, owner, ask)


def new_job(
    admitted: Admitted,
    settings: Settings,
    owner: Owner,
    document_id: str,
    held_by: str | None = None,
    bulk_id: str | None = None,
    bulk_seq: int | None = None,
) -> NewJob:
    """The job for one document, ready for `store.jobs.create`."""
    ask = admitted.ask
    return NewJob(
        document_id=document_id,
        task=ask.task,
        prompts=admitted.prompts,
        template=admitted.template,
        summary_prompts=admitted.summary_prompts,
        model=admitted.card.name,
        policy=admitted.choice.policy,
        policy_reason=admitted.choice.reason,
        policy_pending=admitted.choice.pending,
        reading=admitted.reading,
        on_risk=ask.on_risk,
        scorer_requested=ask.scorer,
        cache_budget=admitted.cache_budget,
        max_output_tokens=admitted.max_output_tokens,
        temperature=ask.temperature,
        seed=ask.seed,
        priority=ask.priority,
        deadline_at=ask.deadline_at,
        tags=dict(ask.metadata),
        max_attempts=settings.max_attempts,
        api_key_id=owner.key_id,
        project=owner.project,
        held_by_budget=held_by,
        bulk_id=bulk_id,
        bulk_seq=bulk_seq,
    )


def enforce_budget(spent: BudgetState | None) -> str | None:
    """The id of the crossed budget that holds a new job in the queue, if any. Raises BudgetExceeded.

    `spent` comes from `store.billing.budgets.blocking_budget` in an earlier transaction: the event that a
    budget is crossed must survive even if the job is refused because of it.
    """
    if spent is None:
        return None
    one = spent.budget
    if one.action == Action.REJECT:
        raise BudgetExceeded(
            str(spent),
            budget=one.id,
            amount=plain(one.amount),
            spent=plain(spent.spent),
            currency=one.currency,
            period_end=spent.end,
        )
    return one.id


def _reading(settings: Settings, ask: Ask) -> str:
    if ask.reading == OPEN and ask.on_risk == REREAD:
        message = "Only a guided reading knows what it has lost: 'reread' needs the reading 'guided'."
        raise Refused("reread_needs_guided", message, "on_risk")
    # A request that wants to know what was lost has to be read guided.
    return ask.reading or (GUIDED if ask.on_risk == REREAD else settings.default_reading)


def _refuse_limits(settings: Settings, ask: Ask) -> None:
    most = settings.max_prompts
    if len(ask.questions) > most:
        raise Refused(
            "too_many_questions", f"A job takes at most {most} questions.", "questions", max_questions=most
        )
    most = settings.max_output_tokens
    if ask.max_output_tokens is not None and ask.max_output_tokens > most:
        message = f"At most {most} tokens can be generated per prompt."
        raise Refused("output_too_long", message, "max_output_tokens", max_output_tokens=most)


def _template(session: Session, owner: Owner, ask: Ask, card: ModelCard) -> Template:
    asked = ask.template or prompt_templates.default_for(card.name)
    found = prompt_templates.find(session, owner.tenant_id, asked)
    if found is None:
        known = prompt_templates.labels(session, owner.tenant_id)
        message = f"There is no template '{asked}'. Known: {', '.join(known)}."
        raise Refused("unknown_template", message, "template", known_templates=known)
    return found


def _output_tokens(settings: Settings, ask: Ask, card: ModelCard, template: Template | None) -> int:
    """Tokens per prompt: as requested, else enough for the requested length of a summary."""
    if ask.max_output_tokens is not None:
        return ask.max_output_tokens
    wanted = DEFAULT_OUTPUT_TOKENS
    if template is not None and not template.each_point:
        wanted = max(wanted, TOKENS_PER_WORD * (ask.words or DEFAULT_WORDS))
    longest = settings.max_output_tokens if card.window is None else card.window - 1
    return min(wanted, longest, settings.max_output_tokens)


def _model(session: Session, settings: Settings, ask: Ask) -> ModelCard:
    """The card of the requested model. Raises Refused if there is none, or if its answers must be shorter."""
    served = workers.models(session, settings.worker_live_seconds)
    known = {model.card.name: model.card for model in served}
    names = sorted(known)
    # A job may name a model without a live worker, and waits for one; such a model is never the default.
    live = sorted(model.card.name for model in served if model.workers_live)
    if ask.model is None and not live:
        raise NoWorker("No live worker serves a model. Try again in a moment, or start a worker.")
    if ask.model is None and len(live) > 1:
        raise Refused(
            "model_required",
            f"Several models are served; choose one: {', '.join(live)}.",
            "model",
            known_models=live,
        )
    name = ask.model or live[0]
    if name not in known and not live:
        # A worker unregisters its models when it stops, so this model may well come back.
        message = (
            f"No live worker serves '{name}', or any other model. Try again in a moment, or start a worker."
        )
        raise NoWorker(message)
    if name not in known:
        message = f"No worker serves the model '{name}'. Known: {', '.join(names) or 'none'}."
        raise Refused("unknown_model", message, "model", known_models=names)
    card = known[name]
    if card.window is not None and (ask.max_output_tokens or 0) >= card.window:
        message = f"The model '{name}' was trained on {card.window} positions, and an answer must be shorter."
        raise Refused("output_too_long", message, "max_output_tokens", max_output_tokens=card.window - 1)
    return card


def _refuse_policy(ask: Ask, card: ModelCard, policy: str) -> None:
    """Raises Refused for a policy that the workers lack, or that does not use the requested scorer."""
    if card.policies is not None and policy not in card.policies:
        message = f"The model '{card.name}' has no policy '{policy}'. Known: {', '.join(card.policies)}."
        raise Refused("unknown_policy", message, "policy", known_policies=card.policies)
    if ask.scorer is not None and not policy_choice.uses_scorer(policy):
        message = (
            f"The policy '{policy}' uses no scorer; those whose names start with {' or '.join(SCORED)} do."
        )
        raise Refused("scorer_not_used", message, "scorer")


def _refuse_scorer(session: Session, owner: Owner, ask: Ask, card: ModelCard) -> None:
    """Raises Refused for a scorer that neither the registry nor the model's workers can provide."""
    if ask.scorer is None or _in_registry(session, owner, ask, ask.scorer, card.name):
        return
    if card.scorers is None:
        return  # no worker has loaded the model yet, so its own scorers are unknown
    own = [f"{scorer['name']}@{scorer['version']}" for scorer in card.scorers]
    if ask.scorer in own or ask.scorer in (scorer["name"] for scorer in card.scorers):
        return
    known = sorted({*own, *(registry.label(row) for row in registry.versions(session, states=USABLE))})
    message = f"The model '{card.name}' has no scorer '{ask.scorer}'. Known: {', '.join(known) or 'none'}."
    if "@" not in ask.scorer and registry.versions(session, name=ask.scorer, states=USABLE):
        message = (
            f"No version of '{ask.scorer}' is active for this job; name a version, as in {ask.scorer}@1."
        )
    raise Refused("unknown_scorer", message, "scorer", known_scorers=known)


def _in_registry(session: Session, owner: Owner, ask: Ask, asked: str, model: str) -> bool:
    """Whether the registry has the version, or a stable one in a scope of the job.

    A canary alone does not count, as it gets only a share of the jobs. Raises Refused scorer_not_verified.
    """
    name, version = registry.split(asked)
    if version is not None:
        try:
            return serving.named(session, name, version) is not None
        except serving.NotUsable as error:
            raise Refused("scorer_not_verified", str(error), "scorer") from None
    job = Job(tenant_id=owner.tenant_id, model=model, tags=dict(ask.metadata))
    return serving.open_in(session, name, serving.scopes_of(job))[0] is not None
