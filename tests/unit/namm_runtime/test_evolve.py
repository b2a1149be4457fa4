"""Candidates are judged as they would be alone, and an interrupted run goes on as it would have."""

import json
from dataclasses import replace

import pytest
import torch

from namm_runtime import checkpoint, policies
from namm_runtime.errors import Refusal
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.fitness import make_exam, mark_population, sit
from namm_runtime.evolve.search import Search, starting_scorer
from namm_runtime.loading import LoadedModel, load_model

SMALL = EvolutionConfig(
    name="small",
    version="1",
    key_input=True,
    start="key-diversity",
    budget=48,
    interval=128,
    tokens=384,
    facts=3,
    questions=3,
    filler=("business",),
    documents=1,
    population=4,
    generations=3,
    validate_every=1,
    validation_documents=2,
)


@pytest.fixture(scope="module")
def bundled() -> LoadedModel:
    return load_model("bundled")


def test_a_candidate_is_judged_as_it_would_be_alone(bundled):
    scorer = starting_scorer(bundled, SMALL)
    population = scorer.parameters + 0.1 * torch.randn(3, 4335, generator=torch.Generator().manual_seed(0))
    exam = make_exam(bundled, SMALL, 2, seed=5, split="train")
    together = mark_population(bundled, SMALL, scorer, population, exam).log_probability
    for row in range(3):
        alone = mark_population(bundled, SMALL, scorer, population[row : row + 1], exam).log_probability
        assert torch.allclose(together[row], alone[0], atol=2e-2)


def test_the_key_start_ranks_as_keydiff_does(bundled):
    scorer = starting_scorer(bundled, SMALL)
    exam = make_exam(bundled, SMALL, 3, seed=6, split="train")
    mine = sit(bundled, SMALL, policies.make("namm-key", SMALL.budget, scorer), exam)
    keydiff = sit(bundled, SMALL, policies.make("keydiff", SMALL.budget), exam)
    assert torch.allclose(mine.log_probability, keydiff.log_probability, atol=1e-3)


def test_a_cache_that_holds_everything_does_best(bundled):
    exam = make_exam(bundled, SMALL, 3, seed=7, split="train")
    roomy = replace(SMALL, budget=1024)
    full = sit(bundled, roomy, policies.make("keydiff", 1024), exam)
    window = sit(bundled, SMALL, policies.make("streaming", 48), exam)
    assert full.exact.mean() > 0.8
    assert window.log_probability.mean() < full.log_probability.mean() - 0.5


def test_an_interrupted_run_goes_on_as_it_would_have(bundled, tmp_path):
    straight = Search(bundled, SMALL, tmp_path / "straight")
    reports = [report.best for report in straight.run()]
    first = Search(bundled, SMALL, tmp_path / "broken")
    next(first.run())
    second = Search(bundled, SMALL, tmp_path / "broken")
    assert second.generation == 1
    assert [report.best for report in second.run()] == reports[1:]
    assert torch.equal(second.result().parameters, straight.result().parameters)
    lines = [json.loads(line) for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3]
    provenance = second.result().provenance
    assert provenance["candidate_documents"] == 3 * 4 * 1
    with pytest.raises(ValueError, match="another config"):
        Search(bundled, replace(SMALL, sigma=0.1), tmp_path / "broken")


def test_bad_configs_are_refused(tmp_path):
    path = tmp_path / "c.toml"
    for text in (
        "name = ",
        'name = "x"\nversion = "1"\ncolour = "red"',
        'name = "x"\nversion = "1"\ntokens = 1000',
    ):
        path.write_text(text)
        with pytest.raises(Refusal) as refusal:
            EvolutionConfig.read(path)
        assert refusal.value.code == "bad_config"
    with pytest.raises(Refusal):
        replace(SMALL, key_input=False)


@pytest.mark.parametrize("name", ["namm", "namm-key"])
def test_bundled_scorers_verify_and_say_where_they_come_from(name):
    scorer = checkpoint.load(checkpoint.resolve(name).path)
    assert scorer.name == name
    assert scorer.config.key_input == (name == "namm-key")
    evolution = scorer.provenance["evolution"]
    assert evolution["start"] != "zero"
    assert (
        scorer.provenance["validation"]["deployed"]["log_probability"]
        >= (scorer.provenance["validation"]["start"]["log_probability"])
    )
    assert scorer.regime.positions == "cache-relative"


@pytest.mark.parametrize("name", ["namm", "namm-key"])
def test_bundled_scorers_find_facts_beyond_the_window(bundled, name):
    config = replace(SMALL, budget=64, interval=512, tokens=4096, facts=4, questions=4, filler=("stdlib",))
    exam = make_exam(bundled, config, 6, seed=8, split="test")
    scorer = checkpoint.load(checkpoint.resolve(name).path)
    learned = sit(bundled, config, policies.make(name, 64, scorer), exam)
    window = sit(bundled, config, policies.make("streaming", 64), exam)
    assert learned.exact.mean() >= 0.75
    assert window.exact.mean() <= 0.25
