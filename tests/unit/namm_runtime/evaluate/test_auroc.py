"""The area under the ROC curve and its interval."""

import random

import pytest

from namm_runtime.evaluate.auroc import auroc


def test_it_is_the_share_of_pairs_in_order_and_equal_values_count_half():
    found = auroc([0.9, 0.5, 0.5, 0.1], [True, True, False, False], [0, 0, 1, 1], ["a", "a"])
    assert (found.value, found.wrong, found.right) == (3.5 / 4, 2, 2)
    assert found.interval is None  # two documents


def test_without_both_kinds_of_answers_there_is_none():
    assert auroc([0.1, 0.2], [True, True], [0, 0], ["a"]) is None
    assert auroc([], [], [], []) is None


def test_the_interval_holds_chance_where_the_value_says_nothing_and_excludes_it_where_it_does():
    rng = random.Random(1)
    wrong = [rng.random() < 0.5 for _ in range(200)]
    home = [number // 5 for number in range(200)]
    noise = auroc([rng.random() for _ in wrong], wrong, home, ["a"] * 40)
    assert noise.interval[0] < 0.5 < noise.interval[1]
    told = auroc([rng.random() + one for one in wrong], wrong, home, ["a"] * 40)
    assert told.interval[0] > 0.9
    assert told.value == pytest.approx(1, abs=0.1)
