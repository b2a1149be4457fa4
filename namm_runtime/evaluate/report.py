"""Rows of the JSON report, one per policy and budget, from the answers and usage of all units."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from namm_runtime.evaluate import bootstrap
from namm_runtime.evaluate.bootstrap import ScoreTable
from namm_runtime.evaluate.document import Document
from namm_runtime.evaluate.estimates import Row, difference, estimated
from namm_runtime.evaluate.real_report import HEADLINE, is_real, measures
from namm_runtime.evaluate.results import results
from namm_runtime.evaluate.spec import PolicySpec

FORMAT = 1


@dataclass(frozen=True)
class Cell:
    """A policy at a budget and with a reading, with the outcome of each document in order.

    Attributes:
        budget: its label; None for the full cache.
        outcomes: the return values of `Unit.work`.
    """

    spec: PolicySpec
    budget: str | None
    outcomes: list[dict[str, Any]]
    reading: str = "open"


def rows(cells: list[Cell], documents: list[Document]) -> list[Row]:
    """One row per cell, with differences from the full cache and from heuristics at its budget and reading.

    The score of real text is that of the planted facts alone; otherwise it is the mean over all tasks.
    """
    tasks = sorted({item.task for document in documents for item in document.items})
    strata: list[Hashable] = [(document.tasks, document.length) for document in documents]
    real = is_real(documents)
    by_task = [_score_table(cell, documents, tasks) for cell in cells]
    scores = [table.task(tasks.index(HEADLINE)) if real else table for table in by_task]
    whole = next((number for number, cell in enumerate(cells) if cell.spec.policy == "full"), None)
    full = None if whole is None else scores[whole]
    full_by_task = None if whole is None else by_task[whole]
    found = []
    for cell, mine, parts in zip(cells, scores, by_task, strict=True):
        others = {
            other.spec.label: theirs
            for other, theirs in zip(cells, scores, strict=True)
            if other is not cell
            and not other.spec.learned
            and (other.budget is None or (other.budget, other.reading) == (cell.budget, cell.reading))
        }
        identity = cell.spec.identity()
        found.append(
            {
                "policy": cell.spec.label,
                "scorer": identity.get("scorer"),
                "scorer_sha256": identity.get("sha256"),
                "budget": cell.budget,
                "reading": cell.reading,
                **estimated("score", bootstrap.score(mine, strata)),
                **estimated("of_full", bootstrap.ratio(mine, full, strata) if full else None, counted=False),
                "minus": {
                    label: difference(bootstrap.difference(mine, theirs, strata))
                    for label, theirs in others.items()
                },
                "tasks": {
                    task: _part(
                        parts.task(number), full_by_task.task(number) if full_by_task else None, strata
                    )
                    for number, task in enumerate(tasks)
                },
                "lengths": {
                    str(length): _part(mine.only(chosen), full.only(chosen) if full else None, strata)
                    for length, chosen in _lengths(documents)
                },
                **_figures(cell.outcomes),
            }
        )
        if real:
            whole_outcomes = None if whole is None else cells[whole].outcomes
            found[-1]["real"] = measures(cell.outcomes, whole_outcomes, documents, strata)
    return found


def _score_table(cell: Cell, documents: list[Document], tasks: list[str]) -> ScoreTable:
    sums, counts = np.zeros((2, len(documents), len(tasks)))
    for number, (document, outcome) in enumerate(zip(documents, cell.outcomes, strict=True)):
        for result in results(document, outcome):
            if (score := result.score) is not None:
                task = tasks.index(result.item.task)
                sums[number, task] += score
                counts[number, task] += 1
    return ScoreTable(sums, counts)


def _lengths(documents: list[Document]) -> list[tuple[int, np.ndarray]]:
    lengths = sorted({document.length for document in documents if document.length is not None})
    return [(length, np.array([document.length == length for document in documents])) for length in lengths]


def _part(mine: ScoreTable, full: ScoreTable | None, strata: Sequence[Hashable]) -> Row:
    share = bootstrap.ratio(mine, full, strata) if full else None
    return {
        **estimated("score", bootstrap.score(mine, strata)),
        **estimated("of_full", share, counted=False),
    }


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
