"""Candidates are judged on the same prompts as the full cache, and as they would be alone."""

from dataclasses import replace

import pytest
import torch

from namm_runtime import policies
from namm_runtime.evolve.batches import DocumentSample, make_document_batch
from namm_runtime.evolve.fitness import (
    Scores,
    evaluate_full_cache,
    evaluate_policy,
    evaluate_population,
    fitness,
)
from namm_runtime.evolve.initial_scorer import build_initial_scorer
from namm_runtime.evolve.oracle import Teacher


def sample(*families, split="train", seed=5):
    return DocumentSample(split, seed, families)


def test_a_candidate_is_judged_as_it_would_be_alone(bundled, small):
    scorer = build_initial_scorer(bundled, small)
    noise = torch.randn(3, len(scorer.parameters), generator=torch.Generator().manual_seed(0))
    population = scorer.parameters + 0.5 * noise
    batch = make_document_batch(bundled, small, sample("kv", "repeated"))
    together = evaluate_population(bundled, replace(small, group=3), scorer, population, batch)
    assert (together.score[0] - together.score[1]).abs().max() > 0.05, "candidates differ"
    for row in range(3):
        alone = evaluate_population(bundled, small, scorer, population[row : row + 1], batch)
        assert torch.allclose(together.score[row], alone.score[0], atol=2e-2)


def test_what_is_needed_is_enough_and_the_newest_are_not(bundled, small):
    batch = make_document_batch(bundled, small, sample("kv", "kv", "repeated", "distractors"))
    full = evaluate_full_cache(bundled, small, batch)
    teacher = evaluate_policy(bundled, small, Teacher(batch.until, seed=0), batch)
    window = evaluate_policy(bundled, small, policies.make("streaming", 64), batch)
    assert full.kept.unique().tolist() == [1.0]
    assert teacher.kept.unique().tolist() == [64 / 512]
    assert teacher.score.mean() > 0.8 * full.score.mean()
    assert window.score.mean() < 0.6 * full.score.mean()


def test_fitness_is_the_mean_over_families_of_shares_of_the_full_cache():
    score = torch.tensor([[0.4, 0.2, 0.9], [0.8, 0.8, 0.0]])
    scores = Scores(score, score, torch.full_like(score, 0.25))
    full = torch.tensor([0.8, 0.8, 0.9])
    assert fitness(scores, full, ["a", "a", "b"], 0.0).tolist() == pytest.approx(
        [(0.375 + 1) / 2, (1 + 0) / 2]
    )
    assert fitness(scores, full, ["a", "a", "b"], 2.0).tolist() == pytest.approx([0.6875 - 0.5, 0.5 - 0.5])


def test_a_threshold_makes_the_size_count(bundled, small):
    """All scores are the bias: above the threshold everything stays that fits, below it the newest token."""
    config = replace(small, threshold=0.0, initial_bias=1.0)
    scorer = build_initial_scorer(bundled, config)
    batch = make_document_batch(bundled, config, sample("kv"))
    population = torch.stack((scorer.parameters, -scorer.parameters))
    scores = evaluate_population(bundled, config, scorer, population, batch)
    assert scores.kept[:, 0].tolist() == pytest.approx([64 / 512, 1 / 512])
    full = torch.ones(1)
    dear, cheap = (fitness(scores, full, ["kv"], weight) for weight in (50.0, 0.0))
    assert dear[1] - cheap[1] > dear[0] - cheap[0]
