"""How facts are worded, from one TOML file for each language."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from namm_runtime.tasks.words import NAMES, Split

_FOLDER = Path(__file__).with_name("languages")
LANGUAGES = tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))


@dataclass(frozen=True)
class Attribute:
    """A property of a thing that has a name.

    Attributes:
        statements: each contains {name} and, after it, {value}.
        question: contains {name}.
        value: a kind of value, see `Values`.
    """

    statements: tuple[str, ...]
    question: str
    value: str


@dataclass(frozen=True)
class Hard:
    """A kind of question that needs several sentences.

    Attributes:
        sentences: to plant, or the one that is planted several times.
        lead: the answer turn up to the answer, which {value} stands for.
    """

    sentences: tuple[str, ...]
    question: str
    lead: str


@dataclass(frozen=True)
class Vocabulary:
    """Names, and patterns of values made of them.

    Attributes:
        names: places of the split.
        surnames: of the split; in English the same as its places.
        companies, person, date, day, amount: patterns for `str.format`.
    """

    names: tuple[str, ...]
    surnames: tuple[str, ...]
    materials: tuple[str, ...]
    first_names: tuple[str, ...]
    months: tuple[str, ...]
    companies: tuple[str, ...]
    person: str
    date: str
    day: str
    amount: str


@dataclass(frozen=True)
class Wordings:
    """Everything that is worded differently in another language or split.

    Attributes:
        hard: by the name of the kind.
        filler: sentences to make documents of, with {name} and {number}; none in English, of which machines
            have enough.
        space: what separates two sentences.
        pattern: how questions are asked, with {question}.
    """

    language: str
    split: Split
    attributes: tuple[Attribute, ...]
    hard: dict[str, Hard]
    vocabulary: Vocabulary
    filler: tuple[str, ...]
    space: str
    pattern: str

    def ask(self, question: str) -> str:
        """A question as it is put to the model."""
        return self.pattern.format(question=question[:1].lower() + question[1:])

    @property
    def metric(self) -> str:
        """Of generated answers: whole words, if the language separates words."""
        return "recall" if self.space else "contains"


@cache
def wordings(language: str, split: Split) -> Wordings:
    """The wordings of a language of `LANGUAGES` for a split.

    Raises:
        KeyError: the language has none for this split; all but English are for testing only.
    """
    read: dict[str, Any] = tomllib.loads((_FOLDER / f"{language}.toml").read_text(encoding="utf-8"))
    part = read[split]
    words: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in read["vocabulary"].items()
    }
    names = tuple(part.get("names", NAMES[split]))
    return Wordings(
        language=language,
        split=split,
        attributes=tuple(
            Attribute(tuple(entry["statements"]), entry["question"], entry["value"])
            for entry in part["attributes"]
        ),
        hard={
            kind: Hard(tuple(entry["sentences"]), entry["question"], entry["lead"])
            for kind, entry in part.items()
            if isinstance(entry, dict)
        },
        vocabulary=Vocabulary(
            names=names,
            surnames=tuple(part.get("surnames", names)),
            materials=tuple(part["materials"]),
            **words,
        ),
        filler=tuple(part.get("filler", ())),
        space=read.get("space", " "),
        pattern=read["question"],
    )
