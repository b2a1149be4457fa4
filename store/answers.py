"""What is said of an answer that may be wrong because much of what its prompt attends to was evicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def risk_of(answer: Mapping[str, Any]) -> str | None:
    """A sentence about a stored answer, None unless it is at risk. Answers of before have no figure."""
    share = answer.get("evicted_attention")
    if not answer.get("at_risk") or share is None:
        return None
    return f"Much of what this question attends to was evicted: {share:.0%}. The answer may be wrong."
