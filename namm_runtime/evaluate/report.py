"""Rows of the JSON report, one per policy and budget, from the answers and usage of all units."""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from namm_runtime.evaluate import bootstrap
from namm_runtime.evaluate.bootstrap import Estimate, ScoreTable
from namm_runtime.evaluate.metrics import score_answer
from namm_runtime.evaluate.suite import Document
from namm_runtime.evaluate.unit import PolicySpec

FORMAT = 1
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A policy at a budget, with the outcome of each document in order.

    Attributes:
        budget: its label; None for the full cache.
        outcomes: the return values of `Unit.work`.
    """

    spec: PolicySpec
    budget: str | None
    outcomes: list[dict[str, Any]]


def rows(cells: list[Cell], documents: list[Document]) -> list[Row]:
    """One row per cell, with differences from the full cache and from the heuristics at the same budget."""
    tasks = sorted({item.task for document in documents for item in document.items})
    strata: list[Hashable] = [(document.tasks, document.length) for document in documents]
    scores = [_score_table(cell, documents, tasks) for cell in cells]
    full = next((m for cell, m in zip(cells, scores, strict=True) if cell.spec.policy == "full"), None)
    found = []
    for cell, mine in zip(cells, scores, strict=True):
        others = {
            other.spec.label: theirs
            for other, theirs in zip(cells, scores, strict=True)
            if other is not cell and not other.spec.learned and other.budget in (None, cell.budget)
        }
        identity = cell.spec.identity()
        found.append(
            {
                "policy": cell.spec.label,
                "scorer": identity.get("scorer"),
                "scorer_sha256": identity.get("sha256"),
                "budget": cell.budget,
                **_estimated("score", bootstrap.score(mine, strata)),
                **_estimated("of_full", bootstrap.ratio(mine, full, strata) if full else None, counted=False),
                "minus": {
                    label: _difference(bootstrap.difference(mine, theirs, strata))
                    for label, theirs in others.items()
                },
                "tasks": {
                    task: _part(mine.task(number), full.task(number) if full else None, strata)
                    for number, task in enumerate(tasks)
                },
                "lengths": {
                    str(length): _part(mine.only(chosen), full.only(chosen) if full else None, strata)
                    for length, chosen in _lengths(documents)
                },
                **_figures(cell.outcomes),
            }
        )
    return found


def _score_table(cell: Cell, documents: list[Document], tasks: list[str]) -> ScoreTable:
    sums, counts = np.zeros((2, len(documents), len(tasks)))
    for number, (document, outcome) in enumerate(zip(documents, cell.outcomes, strict=True)):
        for item, answer in zip(document.items, outcome.get("answers", ()), strict=False):
            task = tasks.index(item.task)
            sums[number, task] += score_answer(answer, item)
            counts[number, task] += 1
    return ScoreTable(sums, counts)


def _lengths(documents: list[Document]) -> list[tuple[int, np.ndarray]]:
    lengths = sorted({document.length for document in documents if document.length is not None})
    return [(length, np.array([document.length == length for document in documents])) for length in lengths]


def _part(mine: ScoreTable, full: ScoreTable | None, strata: Sequence[Hashable]) -> Row:
    share = bootstrap.ratio(mine, full, strata) if full else None
    return {
        **_estimated("score", bootstrap.score(mine, strata)),
        **_estimated("of_full", share, counted=False),
    }


def _estimated(name: str, estimate: Estimate | None, counted: bool = True) -> Row:
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


def _difference(estimate: Estimate | None) -> Row | None:
    if estimate is None:
        return None
    return asdict(estimate) | {"value": round(estimate.value, 6), "interval": _rounded(estimate)}


def _rounded(estimate: Estimate | None) -> list[float] | None:
    if estimate is None or estimate.interval is None:
        return None
    return [round(bound, 6) for bound in estimate.interval]


def _figures(outcomes: list[dict[str, Any]]) -> Row:
    """Cache sizes and speed over the documents that were read; refusals by code, with an example message."""
    usages = [outcome["usage"] for outcome in outcomes if "usage" in outcome]
    refused: dict[str, Row] = {}
    for outcome in outcomes:
        if "refused" in outcome:
            code, message = outcome["refused"]["code"], outcome["refused"]["message"]
            refused.setdefault(code, {"documents": 0, "for_example": message})["documents"] += 1
    figures: Row = {"refused": refused}
    if not usages:
        return figures
    seconds = sum(usage["seconds"]["read"] + usage["seconds"]["score"] for usage in usages)
    tokens = sum(usage["tokens_document"] for usage in usages)
    kept = [usage["kept_fraction"] for usage in usages]
    return figures | {
        "kept_fraction": round(sum(kept) / len(kept), 6),
        "kept_fraction_most": round(max(kept), 6),
        "resident_bytes": max(usage["resident_bytes"] for usage in usages),
        "peak_bytes": max(usage["peak_bytes"] for usage in usages),
        "dense_bytes": max(usage["dense_bytes"] for usage in usages),
        "tokens_read": tokens,
        "read_seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds) if seconds else None,
        "scorer_share_of_reading": round(sum(usage["seconds"]["score"] for usage in usages) / seconds, 4)
        if seconds
        else None,
        "positions": sorted({usage["positions"] for usage in usages}),
        "regime_matches": all(usage["regime_matches"] for usage in usages),
    }
