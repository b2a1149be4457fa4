"""Prompt templates in requests and answers."""

from typing import Annotated

from pydantic import Field, StringConstraints

from api.schemas import TEMPLATE_NAME, Answered, Asked, Prompt

NewTemplateName = Annotated[str, StringConstraints(pattern=rf"^{TEMPLATE_NAME}$")]


class TemplateCreate(Asked):
    """The next version of a prompt for summaries."""

    prompt: Prompt = Field(
        description="May hold {points}, {words} and {number}; a brace that is meant is doubled.",
        examples=[
            "Summarize the contract in {points} points for a lawyer. Quote each clause in double quotes."
        ],
    )
    each_point: bool = Field(
        False, description="Ask it once for each point, with its {number}; for models that complete text."
    )


class TemplateOut(Answered):
    """A version of a prompt for summaries."""

    name: str = Field(examples=["summary"])
    version: int
    label: str = Field(examples=["summary@1"])
    prompt: str
    each_point: bool
    builtin: bool = Field(description="Comes with Palimpsest.")


class TemplateList(Answered):
    """Every version of every template, by name."""

    data: list[TemplateOut]
