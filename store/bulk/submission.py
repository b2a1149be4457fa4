"""How a bulk job's jobs are configured and submitted: model, template, prompts, budgets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store import jobs
from store.billing import budgets
from store.billing.budgets import BudgetState
from store.bulk import repository
from store.errors import NoWorker, Refused
from store.jobs import admission
from store.jobs.admission import Admitted, Owner
from store.settings import Settings
from store.tables.bulk import Bulk
from store.tables.jobs import Job


@dataclass(frozen=True)
class Terms:
    """The present configuration of a bulk job's jobs."""

    admitted: Admitted
    held_by: str | None  # the crossed budget that holds them in the queue


def blocking_budget(session: Session, bulk_id: str) -> BudgetState | None:
    """The crossed budget that blocks its jobs, if any.

    Call it in a transaction of its own, see `store.jobs.admission.enforce_budget`.
    """
    owner = _owner_of(session.get_one(Bulk, bulk_id))
    return budgets.blocking_budget(session, owner.tenant_id, owner.project, owner.key_id)


def terms(session: Session, settings: Settings, bulk: Bulk, spent: BudgetState | None) -> Terms:
    """For a row locked by the caller. The first call fixes model and template for all later ones.

    Raises Refused like any job submitted now; NoWorker if no worker serves the model any more.
    """
    ask = repository.ask_from_json(bulk.ask, bulk.deadline_at)
    ask.metadata.update(bulk.tags)
    ask = replace(ask, model=bulk.model or ask.model, template=bulk.template or ask.template)
    try:
        admitted = admission.admit(session, settings, _owner_of(bulk), ask)
    except Refused as refused:
        if bulk.model is not None and refused.code == "unknown_model":
            raise NoWorker(f"No worker serves the model '{bulk.model}' any more.") from None
        raise
    bulk.model, bulk.template = admitted.card.name, admitted.template
    return Terms(admitted, admission.enforce_budget(spent))


def submit(
    session: Session, settings: Settings, bulk: Bulk, using: Terms, document_id: str, seq: int | None
) -> str:
    """Submits the job for one document of the bulk job, or with no `seq` for its digest; returns its id."""
    owner = _owner_of(bulk)
    new = admission.new_job(using.admitted, settings, owner, document_id, using.held_by, bulk.id, seq)
    if seq is None:  # otherwise it would wait behind the documents of bulk jobs that came later
        new = replace(new, priority=new.priority + 1)
    return jobs.create(session, owner.tenant_id, new).id


def without_questions(using: Terms) -> Terms:
    """The terms of the digest: only the prompts of the summary."""
    admitted = using.admitted
    own = admitted.prompts[: admitted.summary_prompts]
    return replace(using, admitted=replace(admitted, prompts=own))


def summary_prompts(session: Session, bulk_id: str) -> int:
    """How many of each document's answers, from the first, are its summary."""
    return session.scalar(select(func.max(Job.summary_prompts)).where(Job.bulk_id == bulk_id)) or 0


def _owner_of(bulk: Bulk) -> Owner:
    return Owner(bulk.tenant_id, bulk.api_key_id, bulk.project)
