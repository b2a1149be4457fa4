"""One question about one document, the unit of every suite."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Forced:
    """How an answer is scored without generating it.

    The answer turn opens with `lead`; then the model predicts each token of `gold`, given those before it.

    Attributes:
        gold: starts with the white space that separates it from the lead, if any.
        by_token: score the share of tokens that were the likeliest, instead of whether all were.
    """

    lead: str
    gold: str
    by_token: bool = False


@dataclass(frozen=True)
class Item:
    """One question about one document.

    Attributes:
        task: name of its family ("single", "multi", "kv", "listing", …) or the file's own.
        context: the document.
        input: the question, as the model sees it after the document.
        answers: any of these is correct; for listings and key points all of them are expected.
        metric: exact, recall (share of answers found), f1, rouge_l, edit, classification, or a benchmark's
            own.
        forced: measured beside or instead of a generated answer.
        asked: whether an answer is generated. Only such prompts can guide the reading of the document.
    """

    task: str
    context: str
    input: str
    answers: tuple[str, ...]
    metric: str = "exact"
    forced: Forced | None = None
    asked: bool = True
