"""The engine as the worker sees it, and the one place that imports `namm_runtime`: inside functions, so that
importing this module loads no torch."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from store.settings import Settings
from store.tables.jobs import Job
from store.workers import ModelCard

SMALL = 50_000_000  # parameters: below, a second core does not make one document faster
MOST_SLOTS = 8  # by itself; the setting may say more


class AnswerLike(Protocol):
    """One prompt's answer."""

    @property
    def prompt(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> int: ...
    @property
    def finish_reason(self) -> str: ...


class UsageLike(Protocol):
    """What a run has used, over all attempts that its snapshot has seen."""

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
    def error(self) -> Any: ...  # a Refusal or a defect, when that is why the run is done

    def snapshot(self, path: Path) -> None: ...


def answers_of(run: RunLike) -> list[dict[str, Any]]:
    """The answers so far, as they are stored."""
    return [
        {
            "prompt": answer.prompt,
            # Postgres keeps no NUL in text, and a model may produce one.
            "text": answer.text.replace("\x00", "\ufffd"),
            "tokens": answer.tokens,
            "finish_reason": answer.finish_reason,
        }
        for answer in run.answers
    ]


class EngineLike(Protocol):
    """Documents in slots."""

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
    quality: Decimal | None = None  # share of the full cache's score, as its manifest says
    loaded: Any = None  # what the engine takes instead of reading `path` again

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Served:
    """A loaded engine with what the worker needs around it."""

    engine: EngineLike
    card: ModelCard
    refusal: type[Exception]  # has .code and .message
    resolve_scorer: Callable[[str, str | None], ScorerPin | None]  # policy, name asked for → pin
    make_request: Callable[[Job, Path, ScorerPin | None], Any]
    examine: Callable[[Path, Path], None]  # a task of an evolution, where its marks go
    scorer_of: Callable[[str], str | None]  # policy → name of the scorer it is after
    read_scorer: Callable[[Path], ScorerPin]  # a scorer's folder → pin, loaded; raises refusal


def load_from(config: Settings) -> Served:
    """Calls the function that the setting `engine` names (`module:function`)."""
    module, _, function = config.engine.partition(":")
    served = getattr(importlib.import_module(module), function)(config)
    assert isinstance(served, Served), f"{config.engine} did not return a Served"
    return served


def load(config: Settings) -> Served:
    """Loads the model of the settings with `namm_runtime`. Raises Refusal when it cannot be loaded."""
    from namm_runtime import policies
    from namm_runtime.engine import Engine, Refusal, Request
    from namm_runtime.model.loading import load_model
    from namm_runtime.scorer import checkpoint

    def resolve_scorer(policy: str, asked: str | None) -> ScorerPin | None:
        bundled = policies.scorer_of(policy)
        if bundled is None:
            if asked is not None:
                raise Refusal("scorer_not_used", f"The policy '{policy}' takes no scorer.")
            return None
        ref = checkpoint.resolve(asked or bundled)
        return ScorerPin(ref.name, ref.version, ref.sha256, ref.path, _quality(ref.path))

    def read_scorer(folder: Path) -> ScorerPin:
        scorer = checkpoint.load(folder)
        return ScorerPin(scorer.name, scorer.version, scorer.sha256, folder, _quality(folder), scorer)

    def make_request(job: Job, document: Path, scorer: ScorerPin | None) -> Request:
        return Request(
            document=document,
            prompts=tuple(job.prompts),
            policy=job.policy,
            budget=job.budget,
            scorer=(scorer.loaded or scorer.path) if scorer else None,
            max_output_tokens=job.max_output_tokens,
            temperature=job.temperature,
            seed=job.seed,
            max_document_tokens=config.max_document_tokens,
        )

    def examine(task: Path, marks: Path) -> None:
        from namm_runtime.evolve.task_files import carry_out

        carry_out(model, task, marks)

    model = load_model(config.model, device=config.device, dtype=config.dtype)
    card = ModelCard(
        name=config.served_model,
        revision=model.revision,
        window=model.window,
        vocab_size=model.vocab_size,
        dense_bytes_per_token=model.dense_bytes_per_token,
        tokenizer_sha256=model.tokenizer_sha256,
        policies=[*policies.names(), *policies.FORMER],
        scorers=[
            {"name": ref.name, "version": ref.version, "sha256": ref.sha256} for ref in checkpoint.bundled()
        ],
    )
    return Served(
        engine=Engine(model, *_slots(config, sum(one.numel() for one in model.model.parameters()))),
        card=card,
        refusal=Refusal,
        resolve_scorer=resolve_scorer,
        make_request=make_request,
        examine=examine,
        scorer_of=policies.scorer_of,
        read_scorer=read_scorer,
    )


def _slots(config: Settings, parameters: int) -> tuple[int, int]:
    """How many documents are read at once, and in how many threads: see decision 012."""
    small = config.device == "cpu" and parameters < SMALL
    slots = config.slots or (min(len(os.sched_getaffinity(0)), MOST_SLOTS) if small else 1)
    return slots, slots if small else 0


def _quality(scorer: Path) -> Decimal | None:
    """The share of the full cache's score on its validation documents, where the manifest has it."""
    entry = json.loads((scorer / "manifest.json").read_bytes())
    # What an uploaded manifest says here is its author's: anything but a share is as good as nothing.
    for name in ("provenance", "validation", "deployed", "fitness"):
        entry = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(entry, bool) or not isinstance(entry, int | float) or not 0 <= entry <= 10:
        return None
    return round(Decimal(str(entry)), 4)


def describe(config: Settings) -> ModelCard:
    """What the model's files say, without loading it. A hub id says nothing until it is loaded.

    Raises OSError or ValueError when a directory holds no readable config.json.
    """
    from namm_runtime.bundled import MODELS

    folder = MODELS.get(config.model, Path(config.model))
    if not folder.is_dir():
        return ModelCard(config.served_model)
    text = (folder / "config.json").read_bytes()
    values = json.loads(text)
    return ModelCard(
        config.served_model,
        revision="files-" + hashlib.sha256(text).hexdigest()[:12],  # until the weights are loaded
        window=values.get("max_position_embeddings"),
        vocab_size=values.get("vocab_size"),
    )


def files_of(config: Settings) -> tuple[Any, ...]:
    """What tells that a model has been replaced: names, sizes and times of its files; of a hub id, where the
    newest download of it lies. Empty for bundled models, which are never replaced, and for files that are
    missing."""
    from namm_runtime.bundled import MODELS

    if config.model in MODELS:
        return ()
    folder = Path(config.model)
    if not folder.is_dir():
        return _downloaded(config.model)
    try:
        found = [(file.name, file.stat()) for file in _model_files(folder)]
    except OSError:
        return ()  # it is being replaced right now
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def files_age(config: Settings) -> float:
    """Seconds since one of the model's files was last written; downloads appear whole, so have settled."""
    folder = Path(config.model)
    if not folder.is_dir():
        return math.inf
    try:
        return time.time() - max(file.stat().st_mtime for file in _model_files(folder))
    except OSError:
        return 0.0


def _model_files(folder: Path) -> list[Path]:
    return [folder / "config.json", *sorted(folder.glob("*.safetensors"))]


def _downloaded(hub_id: str) -> tuple[Any, ...]:
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(hub_id, "config.json")
        return (found,) if isinstance(found, str) else ()  # not downloaded yet
    except (ImportError, ValueError):
        return ()  # no hub, or not a name that one could have
