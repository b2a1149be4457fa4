"""On which models a scorer was fitted or measured, as its manifest says."""

from typing import Protocol

from namm_runtime.scorer.checkpoint import Scorer


class Model(Protocol):
    """The part of a loaded model that identifies it."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...


def knows(scorer: Scorer, model: Model) -> bool:
    """Whether a scorer was fitted to this model or measured on it.

    The manifest's provenance has `model`, which it was fitted to, and `measured`, a list of others; each is
    an object with `name` and `revision`. A model of the same revision or name counts.
    """
    known = [scorer.provenance.get("model"), *(scorer.provenance.get("measured") or [])]
    return any(
        isinstance(entry, dict)
        and (entry.get("revision") == model.revision or entry.get("name") == model.name)
        for entry in known
    )
