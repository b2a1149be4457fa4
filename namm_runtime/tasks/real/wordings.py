"""How facts are worded. Every split has wordings of its own, so that none can be learnt by heart."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from namm_runtime.tasks.words import Split

_FILE = Path(__file__).with_name("wordings.toml")


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


def attributes(split: Split) -> tuple[Attribute, ...]:
    """The properties that documents of a split state."""
    return _read()[split]


@cache
def _read() -> dict[str, tuple[Attribute, ...]]:
    splits = tomllib.loads(_FILE.read_text())
    return {
        split: tuple(Attribute(tuple(a["statements"]), a["question"], a["value"]) for a in entries)
        for split, entries in splits.items()
    }


@dataclass(frozen=True)
class Nouns:
    """What the harder questions are about: things with a head, with a limit, that opened, that fail."""

    led: str
    limited: str
    unit: str
    opened: str
    failing: str


NOUNS: dict[Split, Nouns] = {
    "test": Nouns("clinic", "depot", "crates", "branch", "plant"),
    "validation": Nouns("chapel", "ferry", "cars", "school", "pump"),
    "train": Nouns("library", "warehouse", "pallets", "station", "kiln"),
}
