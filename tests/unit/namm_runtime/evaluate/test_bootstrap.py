"""Intervals cover what they say, and questions of one document do not count as independent."""

import numpy as np
import pytest

from namm_runtime.evaluate import bootstrap
from namm_runtime.evaluate.bootstrap import ScoreTable


def one_task(sums: list[float], counts: list[float] | None = None) -> ScoreTable:
    column = np.array(sums, dtype=float)[:, None]
    return ScoreTable(
        column, np.ones_like(column) if counts is None else np.array(counts, dtype=float)[:, None]
    )


def test_the_score_is_the_mean_over_tasks_of_the_mean_over_questions():
    scores = ScoreTable(
        np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
    )
    estimate = bootstrap.score(scores, [0, 0, 1])
    assert estimate is not None
    assert estimate.value == pytest.approx((4 / 8 + 1) / 2)
    assert (estimate.documents, estimate.questions) == (3, 9)
    assert estimate.interval is None  # of three documents


def test_the_interval_is_that_of_the_documents_not_of_the_questions():
    generator = np.random.default_rng(5)
    scores = generator.random(60)
    once, often = one_task(list(scores)), one_task(list(scores * 50), [50.0] * 60)
    alike = [bootstrap.score(scores, [0] * 60) for scores in (once, often)]
    assert alike[0].interval == pytest.approx(alike[1].interval)
    low, high = alike[0].interval
    error = scores.std(ddof=1) / np.sqrt(60)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_small_strata_keep_their_width():
    """Ten strata of three: resampling three of three would make the interval a fifth too narrow."""
    generator = np.random.default_rng(6)
    scores, strata = generator.normal(size=30), [number // 3 for number in range(30)]
    within = np.mean([scores[3 * s : 3 * s + 3].var(ddof=1) for s in range(10)])
    low, high = bootstrap.score(one_task(list(scores)), strata).interval
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(within / 30), rel=0.1)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        document = generator.random((20, 1)) < 0.5
        answers = np.where(generator.random((20, 8)) < 0.8, document, ~document)  # alike within a document
        low, high = bootstrap.score(one_task(list(answers.sum(1)), [8.0] * 20), [0] * 20).interval
        covered += low <= 0.5 <= high
    assert 0.87 <= covered / 200 <= 0.99


def test_differences_are_paired():
    generator = np.random.default_rng(8)
    hard = generator.random(40)
    mine, theirs = one_task(list(hard + 0.1)), one_task(list(hard))
    difference = bootstrap.difference(mine, theirs, [0] * 40)
    assert difference.value == pytest.approx(0.1)
    assert difference.interval == pytest.approx((0.1, 0.1))
    ratio = bootstrap.ratio(mine, mine, [0] * 40)
    assert (ratio.value, ratio.interval) == (1, (1, 1))


def test_only_documents_that_both_did_are_compared():
    mine, theirs = one_task([1, 1, 0, 0]), one_task([0, 1, 0, 0], [1, 1, 0, 0])
    difference = bootstrap.difference(mine, theirs, [0] * 4)
    assert (difference.value, difference.documents) == (0.5, 2)
    assert bootstrap.ratio(mine, one_task([0, 0, 0, 0]), [0] * 4) is None
    assert bootstrap.score(one_task([0] * 4, [0] * 4), [0] * 4) is None


def test_the_same_marks_give_the_same_interval():
    scores = one_task([0, 1, 1, 0, 1, 1])
    assert bootstrap.score(scores, [0] * 6) == bootstrap.score(scores, [0] * 6)
