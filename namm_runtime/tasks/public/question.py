"""An item with what public benchmarks say of a question beside it."""

from dataclasses import dataclass

from namm_runtime.tasks.item import Item

METRICS = (
    "exact", "recall", "f1", "rouge_l", "edit", "classification", "contains", "contains_all", "f1_characters",
    "rouge_l_characters", "rouge_lsum", "number", "first_number", "last_number", "leading_numbers", "word",
    "choice",
)  # fmt: skip


@dataclass(frozen=True)
class Question(Item):
    """An item read from a file.

    Attributes:
        classes: names to choose from, for the metric `classification`.
        first_line: only the first line of the answer is marked.
        max_output_tokens: as long as the benchmark lets an answer be; None leaves it to the caller.
    """

    classes: tuple[str, ...] = ()
    first_line: bool = False
    max_output_tokens: int | None = None
