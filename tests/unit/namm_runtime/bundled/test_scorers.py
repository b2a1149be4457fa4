"""The committed scorers are whole, say where they come from, and remember what others forget."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from namm_runtime import policies
from namm_runtime.evolve.batches import Draw, make_exam
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.fitness import Marks, mark_full, sit
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


@pytest.mark.parametrize("name", [name for name in NAMES if name in policies.names()])
def test_they_remember_what_a_window_forgets(bundled: LoadedModel, name: str) -> None:
    """Test split, in the regime of the search."""
    scorer = checkpoint.load(checkpoint.resolve(name).path)
    config = replace(EvolutionConfig.from_dict(scorer.provenance["evolution"]), model="bundled")
    exam = make_exam(bundled, config, Draw("test", 8, FAMILIES))
    marks: dict[str, Marks] = {"full": mark_full(bundled, config, exam)}
    marks["own"] = sit(bundled, config, Namm(scorer), exam)
    marks["streaming"] = sit(bundled, config, policies.make("streaming", config.budget), exam)
    score = {policy: float(found.score.mean()) for policy, found in marks.items()}
    assert score["own"] > 0.8 * score["full"]
    assert score["own"] > score["streaming"] + 0.4
