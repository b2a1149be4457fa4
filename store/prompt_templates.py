"""Prompt templates for summaries: versioned; tenants add versions but never change them."""

from __future__ import annotations

import string
from dataclasses import dataclass

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from store.errors import Invalid
from store.tables.templates import PromptTemplate
from store.tenancy import scoped

PLACEHOLDERS = frozenset({"points", "words", "number"})
DEFAULT_WORDS = 200


@dataclass(frozen=True)
class Template:
    """One version of a template.

    Attributes:
        prompt: may contain {points}, {words} and, with `each_point`, {number}, which counts from 1.
        each_point: the prompt is asked once for each point; otherwise once for all points.
    """

    name: str
    version: int
    prompt: str
    each_point: bool = False
    builtin: bool = False

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


# Never edit these: a new wording is a new version.
BUILTIN = (
    Template(
        "summary",
        1,
        "Summarize the document in {points} key points, {words} words in all or fewer. Write each point on a "
        "line of its own that begins with '- '. End each with the passage it rests on, copied word for word "
        "from the document in double quotes. Write nothing else.",
        builtin=True,
    ),
    # Small models copy whole paragraphs when they are to quote, and keep to a number of points only if they
    # number them.
    Template(
        "summary",
        2,
        "What are the {points} most important facts of this document, above all its decisions, amounts and "
        "deadlines? Give a numbered list of {points} short sentences, with names, amounts and dates, in "
        "{words} words or fewer.",
        builtin=True,
    ),
    Template(
        "brief",
        1,
        "Summarize the document in at most {words} words, from its beginning to its end. Give the decisions, "
        "amounts, dates and names that matter most, exactly as the document does. Write plain sentences, no "
        "list.",
        builtin=True,
    ),
    # Asked for several sentences at once, small models copy the first ones of the document.
    Template(
        "quotes",
        1,
        "Imagine the document in {points} parts of equal length. Copy, word for word, the most important "
        "sentence of part {number}: one with a decision, an amount or a date. Write only that sentence.",
        each_point=True,
        builtin=True,
    ),
    # For models that continue text instead of following instructions.
    Template("key-points", 1, "Key point {number}:", each_point=True, builtin=True),
)


class TemplateInvalid(Invalid):
    """A prompt that cannot be used as a template."""

    code = "template_invalid"
    field = "prompt"


def default_for(model: str) -> str:
    """The default template of a model: bundled models only continue text."""
    return "key-points" if model in ("bundled", "bundled-deep") else "summary"


def prompts_of(template: Template, points: int, words: int | None) -> list[str]:
    """The prompts for a summary of so many points."""
    filled = [
        template.prompt.format(points=points, words=words or DEFAULT_WORDS, number=number)
        for number in range(1, points + 1)
    ]
    return filled if template.each_point else filled[:1]


def check(prompt: str, *, each_point: bool) -> None:
    """Raises TemplateInvalid for a prompt with unknown or malformed placeholders."""
    try:
        fields = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(prompt)]
    except ValueError as error:
        raise TemplateInvalid(
            f"The braces do not match ({error}); write '{{{{' for a literal brace."
        ) from None
    for name, spec, conversion in fields:
        if name is not None and (name not in PLACEHOLDERS or spec or conversion):
            known = ", ".join(f"{{{one}}}" for one in sorted(PLACEHOLDERS))
            raise TemplateInvalid(
                f"Unknown placeholder '{{{name}}}'. Known: {known}; write '{{{{' for a literal brace."
            )
    if each_point and "number" not in (name for name, _, _ in fields):
        raise TemplateInvalid(
            "A prompt for each point needs {number}; otherwise every point would be the same."
        )


def add(session: Session, tenant_id: str, name: str, prompt: str, *, each_point: bool) -> Template:
    """Adds the next version of a tenant's template. Raises TemplateInvalid, also for a built-in name."""
    check(prompt, each_point=each_point)
    if name in (one.name for one in BUILTIN):
        raise TemplateInvalid(f"'{name}' is a built-in template; choose another name.")
    # Concurrent additions get different versions: the second waits for the first.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{tenant_id}/{name}", 0))))
    versions = scoped(PromptTemplate, tenant_id).where(PromptTemplate.name == name)
    newest = session.scalar(versions.with_only_columns(func.max(PromptTemplate.version)))
    made = Template(name, (newest or 0) + 1, prompt, each_point)
    session.execute(
        insert(PromptTemplate).values(
            tenant_id=tenant_id, name=name, version=made.version, prompt=prompt, each_point=each_point
        )
    )
    return made


def list_templates(session: Session, tenant_id: str) -> list[Template]:
    """The built-in templates and the tenant's, by name and version."""
    rows = session.scalars(scoped(PromptTemplate, tenant_id))
    own = [Template(row.name, row.version, row.prompt, row.each_point) for row in rows]
    return sorted([*BUILTIN, *own], key=lambda one: (one.name, one.version))


def find(session: Session, tenant_id: str, asked: str) -> Template | None:
    """The template `name@version`, or the newest version of `name`."""
    name, _, version = asked.partition("@")
    found = [one for one in list_templates(session, tenant_id) if one.name == name]
    if version:
        found = [one for one in found if str(one.version) == version]
    return found[-1] if found else None


def labels(session: Session, tenant_id: str) -> list[str]:
    """The `name@version` of every template."""
    return [one.label for one in list_templates(session, tenant_id)]
