"""Candidates are judged on the same prompts as the full cache, and as they would be alone."""

from dataclasses import replace

import pytest
import torch

from namm_runtime import policies
from namm_runtime.evolve.batches import FOREVER, Draw, make_exam
from namm_runtime.evolve.fitness import Marks, fitness, mark_full, mark_population, sit
from namm_runtime.evolve.initial_scorer import starting_scorer
from namm_runtime.evolve.oracle import Teacher
from namm_runtime.tasks.families import FAMILIES


def draw(*families, split="train", seed=5):
    return Draw(split, seed, families)


def test_documents_are_as_long_as_asked_and_fit_the_cache(bundled, small):
    config = replace(small, tokens=1024, interval=256, budget=128)
    exam = make_exam(bundled, config, draw(*FAMILIES))
    assert exam.documents.shape == (len(FAMILIES), 1024)
    needed = (exam.until == FOREVER).sum(1)
    assert (needed > 1).all()
    assert (needed <= config.relevant * config.budget + 1).all()  # and the opening token
    assert exam.answers.any(1).all()
    assert exam.questions.shape[1] <= config.interval


def test_a_draw_is_the_same_everywhere_and_in_parts(bundled, small):
    whole = draw("kv", "repeated", "kv")
    exam = make_exam(bundled, small, whole)
    parts = [make_exam(bundled, small, part) for part in whole.parts(2)]
    assert torch.equal(torch.cat([part.documents for part in parts]), exam.documents)
    other = make_exam(bundled, small, draw("kv", "repeated", "kv", split="validation"))
    assert not torch.equal(other.documents, exam.documents)


def test_a_candidate_is_judged_as_it_would_be_alone(bundled, small):
    scorer = starting_scorer(bundled, small)
    noise = torch.randn(3, len(scorer.parameters), generator=torch.Generator().manual_seed(0))
    population = scorer.parameters + 0.5 * noise
    exam = make_exam(bundled, small, draw("kv", "repeated"))
    together = mark_population(bundled, replace(small, group=3), scorer, population, exam)
    assert (together.score[0] - together.score[1]).abs().max() > 0.05, "candidates differ"
    for row in range(3):
        alone = mark_population(bundled, small, scorer, population[row : row + 1], exam)
        assert torch.allclose(together.score[row], alone.score[0], atol=2e-2)


def test_what_is_needed_is_enough_and_the_newest_are_not(bundled, small):
    exam = make_exam(bundled, small, draw("kv", "kv", "repeated", "distractors"))
    full = mark_full(bundled, small, exam)
    teacher = sit(bundled, small, Teacher(exam.until, seed=0), exam)
    window = sit(bundled, small, policies.make("streaming", 64), exam)
    assert full.kept.unique().tolist() == [1.0]
    assert teacher.kept.unique().tolist() == [64 / 512]
    assert teacher.score.mean() > 0.8 * full.score.mean()
    assert window.score.mean() < 0.6 * full.score.mean()


def test_fitness_is_the_mean_over_families_of_shares_of_the_full_cache():
    score = torch.tensor([[0.4, 0.2, 0.9], [0.8, 0.8, 0.0]])
    marks = Marks(score, score, torch.full_like(score, 0.25))
    full = torch.tensor([0.8, 0.8, 0.9])
    assert fitness(marks, full, ["a", "a", "b"], 0.0).tolist() == pytest.approx(
        [(0.375 + 1) / 2, (1 + 0) / 2]
    )
    assert fitness(marks, full, ["a", "a", "b"], 2.0).tolist() == pytest.approx([0.6875 - 0.5, 0.5 - 0.5])


def test_a_threshold_makes_the_size_count(bundled, small):
    """All scores are the bias: above the threshold everything stays that fits, below it the newest token."""
    config = replace(small, threshold=0.0, initial_bias=1.0)
    scorer = starting_scorer(bundled, config)
    exam = make_exam(bundled, config, draw("kv"))
    population = torch.stack((scorer.parameters, -scorer.parameters))
    marks = mark_population(bundled, config, scorer, population, exam)
    assert marks.kept[:, 0].tolist() == pytest.approx([64 / 512, 1 / 512])
    full = torch.ones(1)
    dear, cheap = (fitness(marks, full, ["kv"], weight) for weight in (50.0, 0.0))
    assert dear[1] - cheap[1] > dear[0] - cheap[0]


def test_a_value_is_needed_until_it_is_stated_anew(bundled, small):
    config = replace(small, tokens=1024, interval=256, budget=256)
    exam = make_exam(bundled, config, draw("overwritten"))
    until, ids = exam.until[0].tolist(), exam.documents[0].tolist()
    passing = sorted({end for end in until if 0 < end < FOREVER})
    assert passing
    for end in passing:
        first = until.index(end)
        old, new = (bundled.tokenizer.decode(ids[:at]).rpartition("\n")[2].split() for at in (first, end))
        assert old[:2] == new[:2], "the same record"
        assert old[2] < new[2], "by a later letter"
        assert first < end
        assert until[end] > end
