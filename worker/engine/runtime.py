"""Loads the engine. It and `model_files.py` import `namm_runtime`, and only inside functions."""

from __future__ import annotations

import importlib
import json
import os
from decimal import Decimal
from pathlib import Path

from store.settings import Settings
from store.tables.jobs import Job
from store.workers import ModelCard
from worker.engine import model_files
from worker.engine.interface import ScorerPin, Served

SMALL = 50_000_000  # parameters: below this, a second core does not speed up a single document
MAX_DEFAULT_SLOTS = 8  # the setting may be higher


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
                raise Refusal("scorer_not_used", f"The policy '{policy}' does not use a scorer.")
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
            budget=job.cache_budget,
            scorer=(scorer.loaded or scorer.path) if scorer else None,
            max_output_tokens=job.max_output_tokens,
            temperature=job.temperature,
            seed=job.seed,
            reading="guided" if job.reading == "guided" else "open",
            on_risk="reread" if job.on_risk == "reread" else "report",
            max_document_tokens=config.max_document_tokens,
        )

    def run_evolution_task(task: Path, marks: Path) -> None:
        from namm_runtime.evolve.task_files import run_task

        run_task(model, task, marks)

    source = model_files.source_of(config)
    model = load_model(source, device=config.device, dtype=config.dtype)
    default_policy, default_policy_reason = policies.default_for(model)
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
        default_policy=default_policy,
        default_policy_reason=default_policy_reason,
    )
    return Served(
        engine=Engine(model, *_slots(config, sum(one.numel() for one in model.model.parameters()))),
        card=card,
        refusal=Refusal,
        resolve_scorer=resolve_scorer,
        make_request=make_request,
        run_evolution_task=run_evolution_task,
        scorer_of=policies.scorer_of,
        read_scorer=read_scorer,
    )


def _slots(config: Settings, parameters: int) -> tuple[int, int]:
    """How many documents are read concurrently, and in how many threads: see decision 012."""
    small = config.device == "cpu" and parameters < SMALL
    slots = config.slots or (min(len(os.sched_getaffinity(0)), MAX_DEFAULT_SLOTS) if small else 1)
    return slots, slots if small else 0


def _quality(scorer: Path) -> Decimal | None:
    """The score relative to the full cache on the validation documents, if the manifest has it."""
    entry = json.loads((scorer / "manifest.json").read_bytes())
    # An uploaded manifest may hold anything here: values that are not a plausible share are ignored.
    for name in ("provenance", "validation", "deployed", "fitness"):
        entry = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(entry, bool) or not isinstance(entry, int | float) or not 0 <= entry <= 10:
        return None
    return round(Decimal(str(entry)), 4)
