"""Rows of the registry in the API's form."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from sqlalchemy.orm import Session

from api.context import Caller
from api.scorers.schemas import ActivationOut, DiffOut, VersionBrief, VersionList, VersionOut
from store.scorers import registry
from store.tables.scorers import Activation, ScorerVersion


def activation_out(session: Session, row: Activation) -> ActivationOut:
    """An activation with its version."""
    version = registry.label(registry.by_id(session, row.version_id))
    return ActivationOut.model_validate(
        {field: getattr(row, field) for field in ActivationOut.model_fields if field != "scorer"}
        | {"scorer": version}
    )


def visible(rows: list[Activation], caller: Caller) -> list[Activation]:
    """The activations a caller may see: for admins all, else those for all tenants or the caller's own."""
    mine = f"tenant:{caller.tenant_id}"
    return [
        row
        for row in rows
        if caller.admin or row.scope == mine or row.scope.split(":")[0] in ("global", "model")
    ]


def version_out(session: Session, row: ScorerVersion, serving: list[Activation]) -> VersionOut:
    """A version with those of the open activations `serving` that are its own."""
    derived = {"activations", "provenance"}
    values: dict[str, Any] = {
        name: getattr(row, name) for name in VersionOut.model_fields if name not in derived
    }
    values["provenance"] = None if row.manifest is None else row.manifest.get("provenance")
    values["activations"] = [activation_out(session, one) for one in serving if one.version_id == row.id]
    return VersionOut.model_validate(values)


def briefs(rows: list[ScorerVersion]) -> list[VersionBrief]:
    """Versions in their short form."""
    return [VersionBrief.model_validate(row) for row in rows]


def by_name(rows: list[ScorerVersion]) -> list[VersionList]:
    """Versions, sorted by name, grouped by name."""
    grouped = groupby(rows, key=lambda row: row.name)
    return [VersionList(name=name, data=briefs(list(found))) for name, found in grouped]


def diff(one: ScorerVersion, other: ScorerVersion) -> DiffOut:
    """How the manifests of two verified versions differ."""
    found = _differences("", one.manifest, other.manifest)
    return DiffOut.model_validate(
        {
            "from": registry.label(one),
            "to": registry.label(other),
            "same_parameters": one.sha256 == other.sha256,
            "manifest": [{"path": path, "from": old, "to": new} for path, old, new in found],
        }
    )


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Objects entry by entry; lists and plain values as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            inner = f"{path}.{name}" if path else name
            yield from _differences(inner, old.get(name), new.get(name))
    elif old != new:
        yield path, old, new
