"""The committed scorers are whole, say where they come from, and remember what others forget."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from namm_runtime import policies
from namm_runtime.evolve.batches import DocumentSample, make_document_batch
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.fitness import evaluate_full_cache, evaluate_policy
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer import checkpoint

EVOLUTION = Path(checkpoint.__file__).parents[1] / "bundled" / "evolution"
NAMES = sorted(ref.name for ref in checkpoint.bundled())
FAMILIES = ("kv", "multi", "distractors", "tracking")


@pytest.fixture(scope="module")
def bundled() -> LoadedModel:
    return load_model("bundled")


@pytest.mark.parametrize("name", NAMES)
def test_they_verify_and_say_where_they_come_from(bundled: LoadedModel, name: str) -> None:
    ref = checkpoint.resolve(name)
    scorer = checkpoint.load(ref.path)
    provenance = scorer.provenance
    assert scorer.name == name
    assert provenance["model"]["revision"] == bundled.revision
    assert EvolutionConfig.from_dict(provenance["evolution"]) == EvolutionConfig.read(
        EVOLUTION / f"{name}.toml"
    )
    assert provenance["validation"]["deployed"]["fitness"] >= provenance["validation"]["start"]["fitness"]
    log = [json.loads(line) for line in (ref.path / "evolution.jsonl").read_text().splitlines()]
    assert provenance["candidate_documents"] == log[-1]["documents"]
    checks = [entry["validation"] for entry in log if entry["validation"]]
    best = max([provenance["validation"]["start"], *checks], key=lambda check: check["fitness"])
    assert provenance["validation"]["deployed"] == best


OTHERS: dict[object, tuple[float, float]] = {}  # mean scores of the full cache and of a window


@pytest.mark.parametrize("name", [name for name in NAMES if name in policies.names()])
def test_they_remember_what_a_window_forgets(bundled: LoadedModel, name: str) -> None:
    """Test split, in the regime of the search."""
    scorer = checkpoint.load(checkpoint.resolve(name).path)
    config = replace(EvolutionConfig.from_dict(scorer.provenance["evolution"]), model="bundled")
    batch = make_document_batch(bundled, config, DocumentSample("test", 8, FAMILIES))
    # Scorers that were searched for on the same documents share what does not depend on them.
    same = (batch.documents.numpy().tobytes(), config.budget, config.interval)
    if same not in OTHERS:
        streaming = policies.make("streaming", config.budget)
        found = (
            evaluate_full_cache(bundled, config, batch),
            evaluate_policy(bundled, config, streaming, batch),
        )
        OTHERS[same] = (float(found[0].score.mean()), float(found[1].score.mean()))
    full, window = OTHERS[same]
    own = float(evaluate_policy(bundled, config, Namm(scorer), batch).score.mean())
    assert own > 0.8 * full
    assert own > window + 0.4
