"""Prompt templates in requests and responses."""

from typing import Annotated

from pydantic import Field, StringConstraints

from api.schemas import TEMPLATE_NAME, Prompt, RequestModel, ResponseModel

NewTemplateName = Annotated[str, StringConstraints(pattern=rf"^{TEMPLATE_NAME}$")]


class TemplateCreate(RequestModel):
    """The next version of a summary prompt."""

    prompt: Prompt = Field(
        description="May contain {points}, {words} and {number}; double a literal brace.",
        examples=[
            "Summarize the contract in {points} points for a lawyer. Quote each clause in double quotes."
        ],
    )
    each_point: bool = Field(
        False, description="Ask it once per point, with {number}; for models that only complete text."
    )


class TemplateOut(ResponseModel):
    """A version of a summary prompt."""

    name: str = Field(examples=["summary"])
    version: int
    label: str = Field(examples=["summary@1"])
    prompt: str
    each_point: bool
    builtin: bool = Field(description="Part of Palimpsest.")


class TemplateList(ResponseModel):
    """Every version of every template, by name."""

    data: list[TemplateOut]
