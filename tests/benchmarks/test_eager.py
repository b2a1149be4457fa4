"""What the benchmark of features and scores compares: both sides must do the same work."""

from dataclasses import replace

import pytest
import torch

from benchmarks import eager
from namm_runtime.attention.rope import Rotation
from namm_runtime.scorer.bam import Bam
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig


@pytest.fixture
def case() -> eager.Case:
    generator = torch.Generator().manual_seed(3)
    parameters = torch.randn(Bam().size, generator=generator) * 0.2
    # Spectra of these shapes are of this size, so that the network sees features of about one.
    mean, variance = torch.full((17,), 0.01), torch.full((17,), 1e-4)
    scorer = Scorer("random", "1", ScorerConfig(recency_clip=300), parameters, mean, variance)
    inverse = 10_000.0 ** (-torch.arange(8).double() / 8)
    return eager.make_case(96, scorer, Rotation(inverse), heads=4, kv_heads=2, width=16, queries=64)


def test_both_sides_give_the_same_output_state_and_scores(case):
    ours, theirs = eager.Ours(case), eager.Eager(case)
    for _ in range(2):  # the second interval starts from the state that the first one left
        mine, other = ours.interval(), theirs.interval()
        for name in ("output", "ema", "carry", "scores"):
            a, b = getattr(mine, name), getattr(other, name)
            assert a.shape == b.shape, name
            assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()), rtol=0), name


def test_the_scores_depend_on_every_input(case):
    """Else their equality would say little."""
    scores = eager.Eager(case).interval().scores
    assert scores.std() > 0.1
    for name in ("query", "key", "ema", "carry"):
        changed = eager.Eager(replace(case, **{name: getattr(case, name) * 1.5})).interval().scores
        assert not torch.allclose(changed, scores, atol=1e-3), name


def test_a_measured_row_says_what_it_is():
    row = eager.measure("ours", slots=64, repeats=1)
    assert (row["side"], row["slots"], row["queries"]) == ("ours", 64, 512)
    assert row["seconds"] > 0
    assert row["scratch_bytes"] >= 0
