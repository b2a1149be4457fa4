"""What the report says of a policy on real text beside its score."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from namm_runtime.evaluate import bootstrap
from namm_runtime.evaluate.auroc import auroc
from namm_runtime.evaluate.bootstrap import ScoreTable
from namm_runtime.evaluate.document import Document
from namm_runtime.evaluate.estimates import Row, estimated
from namm_runtime.evaluate.replies import classify
from namm_runtime.evaluate.results import Result, results

HEADLINE = "fact"
"""The task whose forced answers are the score of a suite of real text."""
Outcomes = list[dict[str, Any]]
Value = Callable[[Result], float | None]


def is_real(documents: list[Document]) -> bool:
    """Whether the documents have planted facts with forced answers."""
    return any(item.forced and item.task == HEADLINE for document in documents for item in document.items)


def measures(
    outcomes: Outcomes, full: Outcomes | None, documents: list[Document], strata: Sequence[Hashable]
) -> Row:
    """Losses, generated answers and replies of one policy, and what its evictions say of wrong answers."""
    generated = sorted({item.task for document in documents for item in document.items if item.asked})
    answered = [task for task in generated if task != "absent"]
    following = _following(outcomes)
    theirs = _following(full) if full else None
    return {
        # Nats per forced answer to a planted fact, and per token of the text that goes on.
        **estimated("nll", bootstrap.score(_table(outcomes, documents, _nll), strata), counted=False),
        **estimated("continuation", bootstrap.score(following, strata), counted=False),
        **estimated(
            "continuation_less_full",
            bootstrap.difference(following, theirs, strata) if theirs else None,
            counted=False,
        ),
        "generated": {
            task: estimated("score", bootstrap.score(_table(outcomes, documents, _generated(task)), strata))
            for task in answered
        },
        **estimated("not_found", bootstrap.score(_table(outcomes, documents, _replied("not_found")), strata)),
        **estimated(
            "invented", bootstrap.score(_table(outcomes, documents, _replied("invented")), strata), False
        ),
        **estimated(
            "not_found_wrongly", bootstrap.score(_table(outcomes, documents, _denied), strata), counted=False
        ),
        "evicted_attention": {
            "forced": _risk(outcomes, documents, strata, lambda result: result.forced_score),
            "generated": _risk(outcomes, documents, strata, lambda result: result.generated_score),
        },
    }


def _table(outcomes: Outcomes, documents: list[Document], value: Value) -> ScoreTable:
    """[D, 1] sums of a value over the questions that have it."""
    sums, counts = np.zeros((2, len(documents), 1))
    for number, (document, outcome) in enumerate(zip(documents, outcomes, strict=True)):
        found = [value(result) for result in results(document, outcome)]
        known = [entry for entry in found if entry is not None]
        sums[number], counts[number] = sum(known), len(known)
    return ScoreTable(sums, counts)


def _following(outcomes: Outcomes) -> ScoreTable:
    """[D, 1] nats and tokens of the text that goes on after each document."""
    following = [outcome.get("following") or {"nll": 0.0, "tokens": 0} for outcome in outcomes]
    return ScoreTable(
        np.array([[entry["nll"]] for entry in following]),
        np.array([[entry["tokens"]] for entry in following]),
    )


def _nll(result: Result) -> float | None:
    return result.forced.nll if result.forced and result.item.task == HEADLINE else None


def _generated(task: str) -> Value:
    return lambda result: result.generated_score if result.item.task == task else None


def _replied(reply: str) -> Value:
    def value(result: Result) -> float | None:
        if result.item.task != "absent" or result.answer is None:
            return None
        return classify(result.answer, result.item.input) == reply

    return value


def _denied(result: Result) -> float | None:
    """Whether the reply to a question that the document does answer is "not found"."""
    if result.item.task == "absent" or result.answer is None:
        return None
    return classify(result.answer, result.item.input) == "not_found"


def _risk(
    outcomes: Outcomes, documents: list[Document], strata: Sequence[Hashable], score: Value
) -> Row | None:
    """AUROC of the evicted attention against wrong answers; None where it is not known."""
    values, wrong, home = [], [], []
    for number, (document, outcome) in enumerate(zip(documents, outcomes, strict=True)):
        for result in results(document, outcome):
            scored = score(result)
            if result.evicted_attention is None or scored is None or result.item.task == "absent":
                continue
            values.append(result.evicted_attention)
            wrong.append(scored < 1)
            home.append(number)
    found = auroc(values, wrong, home, strata)
    if found is None:
        return None
    bounds = [round(bound, 6) for bound in found.interval] if found.interval else None
    return {"auroc": round(found.value, 6), "interval": bounds, "wrong": found.wrong, "right": found.right}
