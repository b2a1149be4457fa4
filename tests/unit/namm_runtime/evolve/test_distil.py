"""Distillation: later rounds, the ranking loss, and a scorer that ignores the spectrum."""

from dataclasses import replace

import torch

from namm_runtime.attention.spectrogram import BINS
from namm_runtime.evolve import distil
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig


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
