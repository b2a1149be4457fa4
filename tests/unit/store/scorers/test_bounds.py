"""The bounds of guardrails: which are refused, and what is left out."""

from typing import Any

import pytest
from pydantic import ValidationError

from store.scorers.guardrails import Bounds


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_failure_rate": 1.1},
        {"max_failure_rate": -0.1},
        {"max_failure_rate": float("nan")},
        {"max_failure_rate": "0.1"},
        {"min_agreement": 2},
        {"min_agreement": True},
        {"min_jobs": 0},
        {"min_jobs": 1.5},
        {"max_failures": 3},
    ],
)
def test_wrong_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Bounds.model_validate(wrong)


def test_bounds_that_are_left_out() -> None:
    made = Bounds.model_validate({"max_failure_rate": 0})
    assert (made.max_failure_rate, made.min_agreement, made.min_jobs) == (0, None, 20)
