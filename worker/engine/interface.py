"""The interface between worker and engine. This module does not load torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from store.tables.jobs import Job
from store.workers import ModelCard


class ModelNotLoaded(Exception):
    """The model of the settings cannot be served; the message says why. It is logged and registered."""


class UsageLike(Protocol):
    """The resources a run has used, over all attempts that its snapshot includes."""

    def to_dict(self) -> dict[str, Any]: ...


class RunLike(Protocol):
    """One document in the engine."""

    phase: str  # counting | reading | answering | done
    tokens_total: int
    tokens_read: int

    @property
    def answers(self) -> list[Any]: ...
    @property
    def usage(self) -> UsageLike: ...
    @property
    def error(self) -> Any: ...  # a Refusal or another exception, if that ended the run

    def snapshot(self, path: Path) -> None: ...


def answers_of(run: RunLike) -> list[dict[str, Any]]:
    """The answers so far, in the form in which they are stored."""
    return [
        {
            "prompt": answer.prompt,
            # Postgres does not store NUL in text, and a model may produce one.
            "text": answer.text.replace("\x00", "\ufffd"),
            "tokens": answer.tokens,
            "finish_reason": answer.finish_reason,
            "guided": answer.guided,
            "evicted_attention": answer.evicted_attention,
            "at_risk": answer.at_risk,
        }
        for answer in run.answers
    ]


class EngineLike(Protocol):
    """Runs documents in slots."""

    @property
    def free_slots(self) -> int: ...

    def admit(self, request: Any, snapshot: Path | None = None) -> Any: ...
    def step(self) -> list[Any]: ...
    def release(self, run: Any) -> None: ...


@dataclass(frozen=True)
class ScorerPin:
    """The scorer a job runs with."""

    name: str
    version: str
    sha256: str
    path: Path
    quality: Decimal | None = None  # score relative to the full cache, from its manifest
    loaded: Any = None  # the loaded scorer, so that the engine need not read `path`

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Served:
    """A loaded engine and the functions that a worker needs with it."""

    engine: EngineLike
    card: ModelCard
    refusal: type[Exception]  # has .code and .message
    resolve_scorer: Callable[[str, str | None], ScorerPin | None]  # policy, requested name → pin
    make_request: Callable[[Job, Path, ScorerPin | None], Any]
    run_evolution_task: Callable[
        [Path, Path], None
    ]  # a task file of `palimpsest evolve`, where its scores go
    scorer_of: Callable[[str], str | None]  # policy → name of the scorer it uses
    read_scorer: Callable[[Path], ScorerPin]  # a scorer's folder → loaded pin; raises refusal
