"""Budgets: limits on spending in a period."""

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from api.budgets.schemas import BudgetCreate, BudgetList, BudgetOut
from api.context import CallerDep, ContextDep
from api.problems import documented
from store.billing import budgets
from store.tables.billing import Budget

router = APIRouter(prefix="/v1/budgets", tags=["budgets"])


def budget_out(session: Session, row: Budget) -> BudgetOut:
    """A budget in the API's form, with what is spent so far."""
    found = budgets.state(session, row)
    return BudgetOut(
        id=row.id,
        project=row.project,
        api_key_id=row.api_key_id,
        period=budgets.Period(row.period),
        timezone=row.timezone,
        amount=row.amount,
        currency=row.currency,
        action=budgets.Action(row.action),
        spent=found.spent,
        remaining=found.remaining,
        crossed=found.crossed,
        period_start=found.start,
        period_end=found.end,
        created_at=row.created_at,
    )


@router.post("", status_code=201, responses=documented(400, 401, 404, 409, 422))
def create(
    body: BudgetCreate, request: Request, response: Response, context: ContextDep, caller: CallerDep
) -> BudgetOut:
    """Create a budget. To change one, delete it and create another."""
    with context.database.session() as session:
        row = budgets.create(session, caller.tenant_id, budgets.NewBudget(**body.model_dump()))
        response.headers["location"] = request.url_for("show_budget", budget_id=row.id).path
        return budget_out(session, row)


@router.get("", responses=documented(401))
def index(context: ContextDep, caller: CallerDep) -> BudgetList:
    """List your budgets, newest first, each with what is spent in the current period."""
    with context.database.session() as session:
        rows = budgets.list_budgets(session, caller.tenant_id)
        return BudgetList(data=[budget_out(session, row) for row in rows])


@router.get("/{budget_id}", name="show_budget", responses=documented(401, 404))
def show(budget_id: str, context: ContextDep, caller: CallerDep) -> BudgetOut:
    """Get a budget and what is spent in the current period."""
    with context.database.session() as session:
        return budget_out(session, budgets.get(session, caller.tenant_id, budget_id))


@router.delete("/{budget_id}", status_code=204, responses=documented(401, 404))
def delete(budget_id: str, context: ContextDep, caller: CallerDep) -> None:
    """Delete a budget. Jobs it held are released within seconds, unless another budget holds them."""
    with context.database.session() as session:
        budgets.remove(session, caller.tenant_id, budget_id)
