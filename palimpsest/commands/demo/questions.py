"""The example document of the demo and the questions about it, with the true answers."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from palimpsest.machine.data_directory import LocalError

EXAMPLE = Path(__file__).parents[3] / "examples" / "supply-agreement"


@dataclass(frozen=True)
class Question:
    """A question with its true answer.

    Attributes:
        ask: as it is put to the model.
        truth: as it is shown to people.
        accept: an answer that contains one of these is right,
        reject: unless it also contains one of these.
        about: what is special about the question, if anything.
    """

    ask: str
    truth: str
    accept: tuple[str, ...]
    reject: tuple[str, ...] = ()
    about: str = ""

    def is_right(self, answer: str) -> bool:
        """Whether the answer contains what it must and nothing that it must not, as whole words."""
        words = " ".join(answer.split())
        return _contains(words, self.accept) and not _contains(words, self.reject)


def _contains(answer: str, any_of: tuple[str, ...]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", answer, re.IGNORECASE) for one in any_of)


@dataclass(frozen=True)
class Example:
    """A document and the questions about it."""

    document: Path
    questions: tuple[Question, ...]


def load(folder: Path = EXAMPLE) -> Example:
    """The example in a folder: `agreement.md` and `questions.toml`. Raises LocalError if it is not there."""
    try:
        entries = tomllib.loads((folder / "questions.toml").read_text(encoding="utf-8"))["question"]
    except FileNotFoundError:
        raise LocalError(
            f"The example is not in {folder}. It is part of the repository, not of the installed package; "
            "--doc and --ask read a file of your own."
        ) from None
    questions = tuple(
        Question(
            ask=entry["ask"],
            truth=entry["truth"],
            accept=tuple(entry["accept"]),
            reject=tuple(entry.get("reject", ())),
            about=entry.get("about", ""),
        )
        for entry in entries
    )
    return Example(folder / "agreement.md", questions)
