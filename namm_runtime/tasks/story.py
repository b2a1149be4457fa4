"""The statements and questions of a generated document, before it is laid out in filler."""

from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """The role of a token in a document or its questions."""

    FILLER = 0
    FACT = 1  # the beginning of a statement, up to its colon
    OTHER = 2  # a statement's value that no question needs: of another kind, or a repetition
    PAST = 3  # a statement's value that was needed until it was overwritten
    HEADER = 4  # an instruction at the top that says what will be needed
    VALUE = 5  # a statement's value that a question needs
    QUESTION = 6
    ANSWER = 7  # the answer's own tokens and its full stop
    STOP = 8  # the end-of-sequence token after an answer


Statement = tuple[tuple[Role, str], ...]
"""Parts of a line. The first part starts with a line break, later ones with a space."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its answer.

    Attributes:
        prompt: starts with a line break, e.g. "\\nInvoice 4821 total:".
        answers: the answer, or all entries of a list in the expected order.
        metric: as in `Item`: "recall" for lists, "exact" otherwise.
    """

    prompt: str
    answers: tuple[str, ...]
    metric: str = "exact"

    @property
    def completion(self) -> str:
        """What the model should write after the prompt, e.g. " 9310."."""
        return f" {', '.join(self.answers)}."


@dataclass(frozen=True, slots=True)
class Story:
    """Statements in text order, and questions in random order."""

    body: tuple[Statement, ...]
    questions: tuple[Question, ...]
    header: tuple[Statement, ...] = ()


def statement(prompt: str, completion: str, end: Role = Role.VALUE) -> Statement:
    """A line whose value, after the colon, has the role `end`."""
    return ((Role.FACT, prompt), (end, completion))
