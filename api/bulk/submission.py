"""From a valid request to a bulk job, once for each Idempotency-Key; schedules validate with the same."""

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
    """The collection that is meant; that of a source is made. Raises Refused, NotFound."""
    if body.source is not None:
        context.sources.folder(caller.tenant_id, body.source)
        return collections.of_source(session, caller.tenant_id, body.source, body.glob)
    found = collections.get(session, caller.tenant_id, body.collection or "")
    if found.source is not None:
        context.sources.folder(caller.tenant_id, found.source)
    return found


def check(context: Context, caller: Caller, session: Session, body: BulkWork) -> None:
    """Raises Refused for work that no job could be made of, or a destination that may not be written to."""
    if body.to is not None:
        context.sources.folder(caller.tenant_id, body.to, write=True)
    if body.digest and body.job.task != "summarize" and "digest" in body.model_fields_set:
        raise Problem(422, "digest_of_summaries", "Only summaries have a digest.", field="digest")
    admission.check(session, context.settings, owner_of(caller), body.job.ask())


def begin(
    context: Context, caller: Caller, session: Session, body: BulkCreate, spent: BudgetState | None
) -> Bulk:
    """`spent` is as `store.jobs.admission.heed` takes it. Raises Problem, Refused, NotFound."""
    check(context, caller, session, body)
    admission.heed(spent)  # one that only holds jobs is heeded when they are made
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
    """Documents with paths: their names, where these tell them apart."""
    if len(set(ids)) < len(ids):
        raise Problem(422, "document_twice", "A document is named twice.", field="document_ids")
    found = documents.named(session, caller.tenant_id, ids)
    names = {one: found[one].filename or one for one in ids}
    unique = len(set(names.values())) == len(names)
    return [(names[one] if unique else f"{names[one]} ({one})", one) for one in ids]
