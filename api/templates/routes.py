"""Templates: versioned prompts for summaries."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.context import CallerDep, ContextDep
from api.problems import documented
from api.templates.schemas import NewTemplateName, TemplateCreate, TemplateList, TemplateOut
from store import prompt_templates

router = APIRouter(prefix="/v1/templates", tags=["bulk"])


@router.get("", responses=documented(401))
def index(context: ContextDep, caller: CallerDep) -> TemplateList:
    """List every version of every template, built-in ones and yours."""
    with context.database.session() as session:
        found = prompt_templates.list_templates(session, caller.tenant_id)
    return TemplateList(data=[TemplateOut.model_validate(one) for one in found])


@router.post("/{name}", status_code=201, responses=documented(400, 401, 422))
def add(
    name: Annotated[NewTemplateName, Path()], body: TemplateCreate, context: ContextDep, caller: CallerDep
) -> TemplateOut:
    """Add a version. Earlier versions never change, and jobs record which one they used."""
    with context.database.session() as session:
        made = prompt_templates.add(session, caller.tenant_id, name, body.prompt, each_point=body.each_point)
        return TemplateOut.model_validate(made)
