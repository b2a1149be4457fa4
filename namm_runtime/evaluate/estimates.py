"""Estimates as entries of the JSON report."""

from dataclasses import asdict
from typing import Any

from namm_runtime.evaluate.bootstrap import Estimate

Row = dict[str, Any]


def estimated(name: str, estimate: Estimate | None, counted: bool = True) -> Row:
    row: Row = {
        name: estimate and round(estimate.value, 6),
        f"{name}_interval": _rounded(estimate),
    }
    if counted:
        row |= {
            "questions": estimate.questions if estimate else 0,
            "documents": estimate.documents if estimate else 0,
        }
    return row


def difference(estimate: Estimate | None) -> Row | None:
    if estimate is None:
        return None
    return asdict(estimate) | {"value": round(estimate.value, 6), "interval": _rounded(estimate)}


def _rounded(estimate: Estimate | None) -> list[float] | None:
    if estimate is None or estimate.interval is None:
        return None
    return [round(bound, 6) for bound in estimate.interval]
