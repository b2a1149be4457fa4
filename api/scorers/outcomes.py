"""Outcomes of a scorer's versions, side by side."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.context import CallerDep, ContextDep
from api.http.tabular import moment
from api.problems import Problem, documented
from api.reports.parameters import EndTime, StartTime
from api.scorers.outcome_schemas import OutcomeList, OutcomeOut
from store.billing import reports
from store.scorers import outcomes

router = APIRouter(prefix="/v1/scorers", tags=["scorers"])

Versions = Annotated[
    list[str] | None,
    Query(
        max_length=50,
        description="Only these versions, in this order; may be repeated. Default: all.",
    ),
]


@router.get("/{name}/outcomes", responses=documented(401, 404, 422))
def show(
    name: str,
    context: ContextDep,
    caller: CallerDep,
    start_time: StartTime,
    end_time: EndTime = None,
    version: Versions = None,
) -> OutcomeList:
    """Compare the versions of a scorer: failures, tokens kept, cost, savings, agreement.

    Covers your own jobs that ended in the interval, and their shadow runs; an admin sees all tenants.
    """
    with context.database.session() as session:
        end = end_time or reports.now(session)
        if start_time >= end:
            detail = f"The interval ends at {moment(end)}, which is not after its start."
            raise Problem(422, "invalid_request", detail, field="end_time")
        mine = None if caller.admin else caller.tenant_id
        if version:
            found = outcomes.compare(session, name, version, start_time, end, tenant_id=mine)
        else:
            found = outcomes.of_scorer(session, name, start_time, end, tenant_id=mine)
    data = [OutcomeOut.model_validate(one) for one in found]
    return OutcomeList(name=name, start_time=start_time, end_time=end, data=data)
