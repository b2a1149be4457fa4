"""A distilled start puts what is needed above the rest; a start from zero keeps everything."""

from dataclasses import replace

import pytest
import torch

from namm_runtime.attention.spectrogram import BINS
from namm_runtime.engine.memory import Memory
from namm_runtime.evolve import distil
from namm_runtime.evolve.batches import DocumentSample, make_document_batch
from namm_runtime.evolve.fitness import evaluate_policy
from namm_runtime.evolve.initial_scorer import build_initial_scorer
from namm_runtime.evolve.input_statistics import gather
from namm_runtime.evolve.oracle import Teacher
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig


def test_a_start_from_zero_scores_everything_alike(bundled, small):
    scorer = build_initial_scorer(bundled, small)
    x = torch.randn(1, 2, 9, scorer.config.features)
    assert scorer.config.network.score(scorer.parameters, x).unique().tolist() == [small.initial_bias]


def test_a_distilled_start_remembers_more_than_zero_does(bundled, small):
    zero = build_initial_scorer(bundled, small)
    longest = replace(small, start="distilled", distil_rounds=3, distil_tokens=1024)
    distilled = build_initial_scorer(bundled, longest)
    assert torch.equal(zero.mean, distilled.mean)
    # Six of 512 tokens, then twice one of each family of 1,024: documents do not grow beyond distil_tokens.
    record = distilled.provenance["start"]
    assert (record["documents"], record["tokens"], len(record["losses"])) == (6 + 3 + 3, 9 * 1024, 3)
    batch = make_document_batch(
        bundled, small, DocumentSample("validation", 3, ("kv", "repeated", "kv", "distractors"))
    )
    scores = [
        evaluate_policy(bundled, small, Namm(scorer), batch).score.mean() for scorer in (zero, distilled)
    ]
    assert scores[1] > scores[0] + 0.1


def test_later_rounds_read_longer_documents_with_the_budget_of_serving(small):
    config = replace(small, serving_budget=96, distil_tokens=5000)
    rounds = [distil.round_config(config, number) for number in range(6)]
    assert [one.tokens for one in rounds] == [512, 1024, 2048, 4096, 4096, 4096]
    assert [one.budget for one in rounds] == [64, 96, 96, 96, 96, 96]
    assert distil.round_config(replace(config, distil_tokens=100), 3).tokens == 512


def test_the_loss_is_about_a_heads_strongest_rivals():
    """Ninety-six slots that nobody needs, of which three score high, and four that are needed."""
    scores, needed = torch.full((1, 2, 100), -4.0), torch.zeros(1, 2, 100)
    scores[..., :3], scores[..., 96:], needed[..., 96:] = 1.0, 2.0, 1.0
    above = distil.ranking_loss(scores, needed)
    scores[0, 0, 96:] = 0.0  # below the three, in one of two heads
    below = distil.ranking_loss(scores, needed)
    scores[0, 0, :3] = -4.0
    assert below > above + 0.1
    assert distil.ranking_loss(scores, needed) < below - 0.05
    assert distil.ranking_loss(scores, torch.zeros(1, 2, 100)).isfinite()


@pytest.mark.parametrize("statistics", ["regime", "full-cache"])
def test_statistics_are_those_of_the_slots_that_were_there(bundled, small, statistics):
    """Pooled over evictions, layers and heads by hand."""
    config = replace(small, statistics=statistics)
    mean, variance = gather(bundled, config)

    class Noting(Teacher):
        def scores(self, layer):
            seen.append(layer.state["ema"][:, :, : layer.used].reshape(-1, BINS).clone())
            return super().scores(layer)

    seen: list[torch.Tensor] = []
    families = ("kv", "repeated", "distractors")
    batch = make_document_batch(
        bundled, config, DocumentSample("train", -1_000_000, tuple(families[i % 3] for i in range(12)))
    )
    budget = 64 if statistics == "regime" else 512
    Memory(bundled, Noting(batch.until, config.seed), budget, 128, by_slot=True).feed(batch.documents)
    pooled = torch.cat(seen).double()
    assert torch.allclose(mean[:BINS].double(), pooled.mean(0), rtol=1e-4)
    assert torch.allclose(variance[:BINS].double(), pooled.var(0, unbiased=False), rtol=1e-3)


def test_a_start_that_was_fitted_without_the_spectrum_ignores_it_until_the_search_does_not():
    config = ScorerConfig(key_input=True, threshold=None)
    size = config.network.size
    parameters = torch.randn(size, generator=torch.Generator().manual_seed(1)) * 0.3
    scorer = Scorer("s", "1", config, parameters, torch.zeros(BINS), torch.ones(BINS))
    x = torch.randn(1, 2, 40, config.features, generator=torch.Generator().manual_seed(2))
    blind = x.clone()
    blind[..., config.recency_floats : config.recency_floats + BINS] = 0
    expected = config.network.score(parameters, blind)
    given = distil.without_spectrum(scorer, parameters)
    assert torch.allclose(config.network.score(given, x), expected, atol=1e-4)
    assert not torch.allclose(config.network.score(parameters, x), expected, atol=1e-1)
