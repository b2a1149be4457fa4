"""Scorers in requests and responses."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from api.schemas import Page, RequestModel, ResponseModel, Text
from store.scorers.guardrails import Bounds
from store.scorers.registry import VersionState
from store.scorers.serving import Alias

VERSION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,98}$"
MAX_DEPTH = 64
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]
Scope = Annotated[
    str,
    StringConstraints(
        pattern=r"^(global|model:[A-Za-z0-9][A-Za-z0-9._/-]{0,199}|(tenant|schedule):[A-Za-z0-9_-]{1,100})$"
    ),
]
Reason = Annotated[Text, StringConstraints(min_length=1, max_length=500)]


def storable(value: Any) -> str | None:
    """Why Postgres cannot store a JSON value: its depth, numbers or text; None if it can."""
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if depth > MAX_DEPTH:
            return f"it is nested more than {MAX_DEPTH} levels deep"
        if isinstance(one, dict):
            waiting += [(part, depth + 1) for pair in one.items() for part in pair]
        elif isinstance(one, list):
            waiting += [(part, depth + 1) for part in one]
        elif isinstance(one, str) and (
            "\0" in one or any("\ud800" <= character <= "\udfff" for character in one)
        ):
            return "a text in it has U+0000 or an unpaired surrogate"
        elif isinstance(one, int) and one.bit_length() > 1024:
            return "it has a number with too many digits"
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return "it has a number that is not finite"
    return None


class ActivationCreate(RequestModel):
    """Makes a version serve a scope from now on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"version": "3", "scope": "global"},
                {
                    "version": "3",
                    "scope": "model:bundled",
                    "alias": "canary",
                    "percent": 5,
                    "bounds": {"max_failure_rate": 0.02, "min_jobs": 50},
                },
            ]
        }
    )

    version: Version
    scope: Scope = Field(
        "global",
        description="`global`, `model:<name>`, `tenant:<id>` or `schedule:<id>`.",
        examples=["global"],
    )
    alias: Alias = Field(
        Alias.STABLE, description="`stable` serves the scope; `canary` serves a share of its jobs."
    )
    percent: int | None = Field(
        None, ge=0, le=100, description="For a canary: share of jobs that run with it."
    )
    shadow_percent: int = Field(
        0,
        ge=0,
        le=100,
        description="For a canary: share of the stable version's jobs that it also reads as shadow runs.",
    )
    bounds: Bounds | None = Field(
        None, description="If one is crossed, a canary ends and a stable version is rolled back."
    )
    reason: Reason = "activated"

    @model_validator(mode="after")
    def _of_a_canary(self) -> Self:
        if self.alias is Alias.STABLE:
            if self.percent not in (None, 100) or self.shadow_percent:
                raise PydanticCustomError("canary_only", "Only a canary takes percent and shadow_percent")
        elif not self.percent and not self.shadow_percent:
            raise PydanticCustomError("canary_share", "A canary requires percent or shadow_percent")
        return self


class RollbackCreate(RequestModel):
    """Rolls a scope back to its previous version."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"scope": "global", "reason": "wrong answers"}]}
    )

    scope: Scope = "global"
    reason: Reason


class EvaluationIn(RequestModel):
    """The output of `namm evaluate --json`."""

    format: Literal[1]
    model: dict[str, Any]
    settings: dict[str, Any]
    documents: dict[str, Any]
    machine: dict[str, Any]
    rows: list[dict[str, Any]] = Field(min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _valid_rows(self) -> Self:
        for number, row in enumerate(self.rows):
            missing = {"policy", "scorer", "budget", "score"} - row.keys()
            if missing:
                words = ", ".join(sorted(missing))
                raise PydanticCustomError("row_incomplete", f"rows[{number}] is missing {words}")
        why = storable(self.model_dump())
        if why is not None:
            raise PydanticCustomError("not_storable", f"The report cannot be stored: {why}")
        return self


class ActivationOut(ResponseModel):
    """A period in which a version serves, or served, a scope."""

    id: str = Field(examples=["act_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    scorer: str = Field(examples=["namm-key@3"])
    scope: str = Field(examples=["global"])
    alias: Alias
    percent: int
    shadow_percent: int
    bounds: dict[str, Any]
    activated_by: str = Field(description="The id of an API key, or `system`.")
    activated_at: datetime
    ended_at: datetime | None
    ended_by: str | None
    ended_reason: str | None


class ActivationPage(Page):
    """A page of activations, newest first; `ended_at` is null for open ones."""

    data: list[ActivationOut]


class VersionBrief(ResponseModel):
    """A version and its state."""

    version: str = Field(examples=["3"])
    state: VersionState
    sha256: str | None = Field(description="Of scorer.safetensors; null until it is verified.")
    created_at: datetime


class VersionList(ResponseModel):
    """The versions of a scorer, newest first."""

    name: str = Field(examples=["namm-key"])
    data: list[VersionBrief]


class VersionPage(Page, VersionList):
    """A page of the versions of a scorer, newest first."""


class ScorerPage(Page):
    """A page of versions grouped by scorer; a scorer may continue on the next page."""

    data: list[VersionList]


class VersionOut(ResponseModel):
    """A version in full."""

    name: str = Field(examples=["namm-key"])
    version: str = Field(examples=["3"])
    state: VersionState
    reason: str | None = Field(description="Why it was rejected, or its verification postponed.")
    kind: Literal["safetensors", "reference"]
    sha256: str | None = Field(description="Of scorer.safetensors; null until it is verified.")
    upload_sha256: str = Field(description="Of the names and hashes of the uploaded files.")
    manifest: dict[str, Any] | None
    provenance: dict[str, Any] | None = Field(description="The provenance entry of the manifest.")
    evaluation: dict[str, Any] | None = Field(description="Output of `namm evaluate`, if attached.")
    activations: list[ActivationOut] = Field(description="Its open activations.")
    created_by: str
    created_at: datetime
    checked_at: datetime | None


class Difference(ResponseModel):
    """An entry that differs between two manifests; null if one does not have it."""

    path: str = Field(examples=["config.gamma"])
    from_: Any = Field(alias="from")
    to: Any


class DiffOut(ResponseModel):
    """The differences between two versions."""

    from_: str = Field(alias="from", examples=["namm-key@2"])
    to: str = Field(examples=["namm-key@3"])
    same_parameters: bool = Field(description="Whether scorer.safetensors has the same sha256.")
    manifest: list[Difference]


class AuditOut(ResponseModel):
    """A change: what, by whom, when."""

    id: int
    at: datetime
    actor: str = Field(examples=["key_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    action: str = Field(examples=["scorer.activated"])
    subject: str = Field(examples=["namm-key@3"])
    detail: dict[str, Any]


class AuditPage(Page):
    """A page of the audit log, newest first."""

    data: list[AuditOut]
