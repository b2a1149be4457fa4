"""A distilled initial scorer ranks needed tokens above the rest; one from zero scores all alike."""

from dataclasses import replace

import torch

from namm_runtime.evolve.batches import DocumentSample, make_document_batch
from namm_runtime.evolve.fitness import evaluate_policy
from namm_runtime.evolve.initial_scorer import build_initial_scorer
from namm_runtime.policies.namm import Namm


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
