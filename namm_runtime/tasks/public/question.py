"""An item with the further fields of public benchmarks."""

from dataclasses import dataclass

from namm_runtime.tasks.item import Item

METRICS = (
    "exact", "recall", "f1", "rouge_l", "edit", "classification", "contains", "contains_all", "f1_characters",
    "rouge_l_characters", "rouge_lsum", "number", "first_number", "last_number", "leading_numbers", "word",
    "choice", "not_found",
)  # fmt: skip


@dataclass(frozen=True)
class Question(Item):
    """An item read from a file.

    Attributes:
        classes: names to choose from, for the metric `classification`.
        first_line: score only the first line of the answer.
        max_output_tokens: the benchmark's limit for an answer; None leaves it to the caller.
    """

    classes: tuple[str, ...] = ()
    first_line: bool = False
    max_output_tokens: int | None = None
