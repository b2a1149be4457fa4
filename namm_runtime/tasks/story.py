"""What a generated document consists of, before it is laid out in filler: statements and questions."""

from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """What a token of a document or of its questions is there for."""

    FILLER = 0
    FACT = 1  # a statement's beginning, up to its colon
    OTHER = 2  # a statement's end that no question needs: of another kind, or said before
    PAST = 3  # a statement's end that was needed until the same record was stated anew
    HEADER = 4  # says at the top what will be needed
    VALUE = 5  # a statement's end that a question needs
    QUESTION = 6
    ANSWER = 7  # the answer's own tokens and its full stop
    STOP = 8  # the end-of-sequence token after an answer


Statement = tuple[tuple[Role, str], ...]
"""Parts of a line. The line begins with a line break; the later parts begin with a space."""


@dataclass(frozen=True, slots=True)
class Question:
    """A line that asks, and what should follow it.

    Attributes:
        prompt: begins with a line break, e.g. "\\nInvoice 4821 total:".
        answers: the answer, or all the entries of a list in the order in which they are to be written.
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
    """Statements in the order in which they stand, and questions in random order."""

    body: tuple[Statement, ...]
    questions: tuple[Question, ...]
    header: tuple[Statement, ...] = ()


def statement(prompt: str, completion: str, end: Role = Role.VALUE) -> Statement:
    """A line whose end, after the colon, has a role of its own."""
    return ((Role.FACT, prompt), (end, completion))
