"""What a policy did on each question of a document, and how that is scored."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from namm_runtime.engine.forced import Prediction
from namm_runtime.evaluate.document import Document
from namm_runtime.evaluate.metrics import score_answer
from namm_runtime.tasks.item import Item


@dataclass(frozen=True)
class Result:
    """One question's outcome.

    Attributes:
        answer: the generated answer; None if none was generated.
        forced: how the forced answer was predicted; None if the item has none.
        evicted_attention: share of the prompt's attention that fell on evicted tokens, 0 to 1; None if that
            is not known.
    """

    item: Item
    answer: str | None
    forced: Prediction | None
    evicted_attention: float | None

    @property
    def score(self) -> float | None:
        """0 to 1: of the forced answer if there is one, else of the generated one."""
        return self.generated_score if self.item.forced is None else self.forced_score

    @property
    def forced_score(self) -> float | None:
        """1 if every token was the likeliest, else 0; for passages the share of tokens that were."""
        if self.forced is None or self.item.forced is None:
            return None
        return self.forced.right / self.forced.tokens if self.item.forced.by_token else self.forced.exact

    @property
    def generated_score(self) -> float | None:
        return None if self.answer is None else score_answer(self.answer, self.item)


def results(document: Document, outcome: dict[str, Any]) -> Iterator[Result]:
    """The results of a unit's outcome in the order of the document's items; none if it was refused."""
    if "usage" not in outcome:
        return
    answers, forced = iter(outcome["answers"]), iter(outcome.get("forced", ()))
    evicted = iter(outcome.get("evicted_attention", ()))
    for item in document.items:
        prediction = next(forced) if item.forced else None
        yield Result(
            item,
            next(answers) if item.asked else None,
            Prediction(**prediction) if prediction else None,
            next(evicted, None) if item.asked else None,
        )
