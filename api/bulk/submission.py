"""Turns a valid request into a bulk job; schedules use the same checks."""

from sqlalchemy.orm import Session

from api.bulk.schemas import BulkCreate, BulkWork
from api.context import Caller, Context
from api.jobs.submission import owner_of
from api.problems import Problem
from store import bulk, collections, documents
from store.billing.budgets import BudgetState
from store.bulk import NewBulk
from store.jobs import admission
from store.tables.bulk import Bulk
from store.tables.collections import Collection


def collection_of(context: Context, caller: Caller, session: Session, body: BulkWork) -> Collection:
    """The collection of a request; for a source it is created if needed. Raises Refused, NotFound."""
    if body.source is not None:
        context.sources.folder(caller.tenant_id, body.source)
        return collections.of_source(session, caller.tenant_id, body.source, body.glob)
    found = collections.get(session, caller.tenant_id, body.collection or "")
    if found.source is not None:
        context.sources.folder(caller.tenant_id, found.source)
    return found


def check(context: Context, caller: Caller, session: Session, body: BulkWork) -> None:
    """Raises Problem, or Refused for work without a valid job or a destination that is not allowed."""
    if body.to is not None:
        context.sources.folder(caller.tenant_id, body.to, write=True)
    if body.digest and body.job.task != "summarize" and "digest" in body.model_fields_set:
        raise Problem(422, "digest_of_summaries", "Only summaries have a digest.", field="digest")
    admission.check(session, context.settings, owner_of(caller), body.job.ask())


def begin(
    context: Context, caller: Caller, session: Session, body: BulkCreate, spent: BudgetState | None
) -> Bulk:
    """Creates a bulk job; `spent` is as for `admission.enforce_budget`. Raises Problem, Refused, NotFound."""
    check(context, caller, session, body)
    admission.enforce_budget(
        spent
    )  # raises only if one rejects jobs; one that holds them applies to each job
    found, listed = None, list[tuple[str, str]]()
    if body.document_ids is not None:
        listed = _named(session, caller, body.document_ids)
    else:
        found = collection_of(context, caller, session, body)
    own = {"collection_id": found.id} if found is not None else {}
    new = NewBulk(
        ask=body.job.ask(),
        collection_id=found.id if found else None,
        collection_name=found.name if found else None,
        documents=listed,
        deadline_at=body.deadline,
        strategy=body.strategy,
        only_changed=body.only_changed,
        digest=body.digest and body.job.task == "summarize",
        destination=body.to,
        tags={**body.metadata, **own},
    )
    return bulk.create(session, owner_of(caller), new)


def _named(session: Session, caller: Caller, ids: list[str]) -> list[tuple[str, str]]:
    """Paths for documents: their names, if these are unique."""
    if len(set(ids)) < len(ids):
        raise Problem(422, "document_twice", "A document is listed twice.", field="document_ids")
    found = documents.named(session, caller.tenant_id, ids)
    names = {one: found[one].filename or one for one in ids}
    unique = len(set(names.values())) == len(names)
    return [(names[one] if unique else f"{names[one]} ({one})", one) for one in ids]
