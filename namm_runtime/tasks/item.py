"""One question about one document: what every suite, reader and search is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One question about one document.

    Attributes:
        task: name of its family ("single", "multi", "kv", "listing", … or a file's own).
        context: the document.
        input: the question, as the model should see it after the document.
        answers: any of these is right; for listings and key points all of these are wanted.
        metric: how it is marked: exact, recall (share of answers found), f1, rouge_l, edit or classification.
    """

    task: str
    context: str
    input: str
    answers: tuple[str, ...]
    metric: str = "exact"
