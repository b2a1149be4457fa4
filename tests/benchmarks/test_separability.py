"""How well attention and keys tell needed values from look-alikes."""

import pytest
import torch

from benchmarks.separability import FAMILIES, area_under_curve, measure


def test_area_is_the_probability_of_the_right_order() -> None:
    assert area_under_curve(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0])) == 1
    assert area_under_curve(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])) == 0
    assert area_under_curve(torch.tensor([2.0, 2.0]), torch.tensor([2.0])) == 0.5
    assert area_under_curve(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.0])) == 0.75


def test_the_bundled_model_marks_what_is_marked_by_a_word() -> None:
    rows = {row["family"]: row for row in measure("bundled", tokens=1024, documents=2)}
    assert tuple(rows) == FAMILIES
    assert rows["distractors"]["by_attention"] > 0.9
    assert rows["distractors"]["by_keys"] == pytest.approx(1, abs=0.1)
