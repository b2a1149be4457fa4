"""The settings as a page of the documentation: `python -m store.settings_reference`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from store.settings import Settings

HEAD = """# Settings

Every setting of the service is an environment variable. `palimpsest up` passes its own environment on to the
processes that it starts; with containers each service needs the variables that concern it. An empty variable
counts as unset. Of these, the library and `namm` read only `NAMM_MODELS`. The commands that talk to a service
read two more variables: `PALIMPSEST_URL`, the address of the service, and `PALIMPSEST_API_KEY`.

This page is generated from `store/settings.py`:
`python -m store.settings_reference > docs/reference/settings.md`.

| Variable | Type | Default | Meaning |
|---|---|---|---|
"""

_TYPES: dict[Any, str] = {
    str: "string",
    SecretStr: "string, secret",
    Path: "path",
    bool: "boolean",
    int: "positive integer",
    float: "positive number",
}


def page() -> str:
    """The reference page as Markdown, a row for each setting."""
    rows = []
    for name, field in Settings.model_fields.items():
        cells = (_variables(name, field), _type(field), _default(field.default), field.description or "")
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(rows)


def _variables(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [f"PALIMPSEST_{name.upper()}"]
    return " or ".join(f"`{choice}`" for choice in choices)


def _type(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_args(kind):  # X | None
        kind = get_args(kind)[0]
    if get_args(kind):  # Annotated[X, …]
        kind = get_args(kind)[0]
    return _TYPES[kind]


def _default(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, Path) and value.is_relative_to(Path.home()):
        return f"`~/{value.relative_to(Path.home())}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.stdout.write(page())
