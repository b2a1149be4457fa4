"""Suites of real text, described by a small TOML file.

name = "mine"
source = "folder"                  # or "library": what every machine with Python has
folder = "handbooks"               # relative to the TOML file
lengths = [4096, 7168]             # tokens with those of the chat template, multiples of the interval
documents = 20                     # per length
facts = 5                          # questions per document, by sort: see namm_runtime.tasks.real.Asked
hard = 2
absent = 1
text = 4
quotes = 2
languages = ["en"]                 # others are made of sentences that come with this package
split = "test"
seed = 0
max_output_tokens = 24
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.evaluate.document import Document
from namm_runtime.tasks import SPLITS, Split
from namm_runtime.tasks.item import Item
from namm_runtime.tasks.real import LANGUAGES, Asked, real_documents

SOURCES = ("library", "folder")


@dataclass(frozen=True)
class RealSuite:
    """Lengths × documents of real text, each with questions of every sort."""

    name: str
    lengths: tuple[int, ...]
    documents: int
    source: str = "library"
    folder: Path | None = None
    facts: int = 5
    hard: int = 2
    absent: int = 1
    text: int = 4
    quotes: int = 2
    languages: tuple[str, ...] = ("en",)
    split: Split = "test"
    seed: int = 0
    max_output_tokens: int = 24

    @classmethod
    def parse(cls, values: dict[str, Any], path: Path) -> "RealSuite":
        """Parse the contents of a TOML file.

        Raises:
            Refusal: `bad_suite`, naming what is wrong.
        """
        unknown: set[str] = values.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise Refusal("bad_suite", f"{path.name}: unknown entries {', '.join(sorted(unknown))}")
        try:
            lists: dict[str, Any] = {
                name: tuple(values[name]) for name in ("lengths", "languages") if name in values
            }
            suite = cls(**values | lists)
            if suite.folder is not None:
                suite = replace(suite, folder=path.parent / suite.folder)
        except TypeError as error:
            raise Refusal("bad_suite", f"{path}: {error}") from None
        counts = (suite.facts, suite.hard, suite.absent, suite.text, suite.quotes)
        numbers = (*suite.lengths, suite.documents, suite.max_output_tokens)
        if not suite.lengths or any(not isinstance(number, int) or number < 1 for number in numbers):
            raise Refusal("bad_suite", f"{path}: lengths and documents must be positive integers")
        if any(not isinstance(number, int) or number < 0 for number in counts) or suite.facts < 1:
            raise Refusal("bad_suite", f"{path}: numbers of questions must be integers, and facts at least 1")
        if suite.split not in SPLITS:
            raise Refusal("bad_suite", f"{path}: unknown split '{suite.split}', not {', '.join(SPLITS)}")
        unknown = set(suite.languages) - set(LANGUAGES)
        if unknown or not suite.languages:
            known = ", ".join(LANGUAGES)
            raise Refusal("bad_suite", f"{path}: languages must be some of {known}")
        if set(suite.languages) != {"en"} and suite.split != "test":
            raise Refusal("bad_suite", f"{path}: only English has a {suite.split} split")
        if suite.source not in SOURCES or (suite.source == "folder") != (suite.folder is not None):
            raise Refusal("bad_suite", f'{path}: source must be "library", or "folder" with a folder')
        return suite

    def of_folder(self, folder: Path) -> "RealSuite":
        """The same suite on the files of a folder."""
        return replace(self, source="folder", folder=folder)

    def make(self, tokenizer: Any) -> list[Document]:
        """Generate the documents.

        Raises:
            Refusal: `bad_tasks` for a folder without text, or a length too small for its facts.
        """
        asked = Asked(self.facts, self.hard, self.absent, self.text, self.quotes)
        return [
            Document(
                text=made.text,
                items=self._named(made.items, language),
                length=made.tokens,
                max_output_tokens=self.max_output_tokens,
                following=made.following,
                group=f"{self.name}:{language}",
            )
            for language in self.languages
            for made in real_documents(
                self.split, self.lengths, self.documents, self.seed, tokenizer, self.folder, asked, language
            )
        ]

    def _named(self, items: tuple[Item, ...], language: str) -> tuple[Item, ...]:
        """The items of one of several languages, of which each has tasks of its own."""
        if len(self.languages) == 1:
            return items
        return tuple(replace(item, task=f"{item.task}:{language}") for item in items)
