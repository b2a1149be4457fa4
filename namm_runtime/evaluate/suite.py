"""Suites of documents and questions: described by a small TOML file, or JSONL files.

A TOML file with a `source` is a suite of real text, see `RealSuite`. The others are generated families:

name = "bundled"
families = ["single", "listing"]   # default: all
lengths = [4240, 8336]             # maximum tokens per document
documents = 6                      # per family and length
questions = 8                      # maximum per document
split = "test"
seed = 0
max_output_tokens = 32
"""

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.evaluate.document import Document
from namm_runtime.evaluate.real import RealSuite
from namm_runtime.tasks import SPLITS
from namm_runtime.tasks.public import Question, read

SUITES = Path(__file__).parent / "suites"
OUTPUT_TOKENS = 64


@dataclass(frozen=True)
class Suite:
    """Families × lengths × documents × questions × seed."""

    name: str
    lengths: tuple[int, ...]
    documents: int
    questions: int
    families: tuple[str, ...] = ()
    split: str = "test"
    seed: int = 0
    max_output_tokens: int = OUTPUT_TOKENS

    @classmethod
    def read(cls, path: Path) -> "Suite | RealSuite":
        """Read a TOML file.

        Raises:
            Refusal: `bad_suite`, naming what is wrong.
        """
        try:
            values: dict[str, Any] = tomllib.loads(path.read_text())
            if "source" in values:
                return RealSuite.parse(values, path)
            unknown = values.keys() - {field.name for field in fields(cls)}
            if unknown:
                raise Refusal("bad_suite", f"{path.name}: unknown entries {', '.join(sorted(unknown))}")
            for name in ("lengths", "families"):
                if name in values:
                    values[name] = tuple(values[name])
            suite = cls(**values)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
            raise Refusal("bad_suite", f"{path}: {error}") from None
        numbers = (*suite.lengths, suite.documents, suite.questions, suite.max_output_tokens)
        if not suite.lengths or any(not isinstance(number, int) or number < 1 for number in numbers):
            raise Refusal("bad_suite", f"{path}: lengths, documents and questions must be positive integers")
        if suite.split not in SPLITS:
            raise Refusal("bad_suite", f"{path}: unknown split '{suite.split}', not {', '.join(SPLITS)}")
        return suite

    def make(self, tokenizer: Any) -> list[Document]:
        """Generate the documents. Raises Refusal `bad_suite` for an unknown family."""
        # Imported here because the generators are slow to import, and JSONL files do not need them.
        generators = import_module("namm_runtime.tasks.suite")
        families = self.families or generators.FAMILIES
        unknown = set(families) - set(generators.FAMILIES)
        if unknown:
            known = ", ".join(generators.FAMILIES)
            raise Refusal("bad_suite", f"unknown families: {', '.join(sorted(unknown))}; known: {known}")
        return [
            Document(text, tuple(items[: self.questions]), length, self.max_output_tokens)
            for family in families
            for length in self.lengths
            for text, items in generators.documents(
                family, self.split, length, self.documents, self.seed, tokenizer
            )
        ]


def load(names: Iterable[str], tokenizer: Callable[..., Any], limit: int | None = None) -> list[Document]:
    """Documents of the named suites, TOML or JSONL files; `real=FOLDER` is a suite on a folder's own text.

    Args:
        limit: use only the first documents of each task; None uses all.

    Raises:
        Refusal: `bad_suite`, `bad_tasks`.
    """
    found: list[Document] = []
    for name in names:
        suite, _, folder = name.partition("=")
        path = SUITES / f"{name}.toml" if (SUITES / f"{name}.toml").exists() else Path(name)
        if folder and (SUITES / f"{suite}.toml").exists():
            found += _on_folder(suite, Path(folder)).make(tokenizer)
        elif path.suffix == ".toml":
            found += Suite.read(path).make(tokenizer)
        elif path.exists():
            found += _from_file(path)
        else:
            known = ", ".join(sorted(suite.stem for suite in SUITES.glob("*.toml")))
            raise Refusal("bad_tasks", f"'{name}' is neither a file nor a suite ({known})")
    if limit is not None:
        taken: dict[tuple[object, ...], int] = {}
        found = [document for document in found if _count(taken, (document.tasks, document.length)) <= limit]
    if not found:
        raise Refusal("bad_tasks", f"{', '.join(names)} contains no questions")
    return found


def _on_folder(name: str, folder: Path) -> RealSuite:
    suite = Suite.read(SUITES / f"{name}.toml")
    if not isinstance(suite, RealSuite):
        raise Refusal("bad_tasks", f"the suite '{name}' is not made of real text and takes no folder")
    return suite.of_folder(folder)


def _from_file(path: Path) -> list[Document]:
    """Questions about the same text become one document, which is read once."""
    items: dict[str, list[Question]] = {}
    for item in read(path):
        items.setdefault(item.context, []).append(item)
    return [
        Document(text, tuple(asked), None, max(item.max_output_tokens or OUTPUT_TOKENS for item in asked))
        for text, asked in items.items()
    ]


def _count(counts: dict[tuple[object, ...], int], key: tuple[object, ...]) -> int:
    counts[key] = counts.get(key, 0) + 1
    return counts[key]
