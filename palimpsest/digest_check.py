"""Checks a bulk job's bundle against facts that its documents are known to contain.

It compares text and understands nothing: a fact counts as carried where one of its spellings occurs, and an
invention is a statement that the facts file lists, or a number that the document does not have.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from palimpsest.machine.data_directory import LocalError

_ALIKE = str.maketrans("\u00a0\u202f“”„«»‘’–—‑", '  """""\'\'---')
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_MAX_BYTES = 1 << 30

_Spelling = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Spellings = _Spelling | Annotated[list[_Spelling], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Bar(_Strict):
    """What a digest has to reach; None is not checked."""

    facts: float | None = Field(default=None, ge=0, le=1)  # least share of the facts
    placed: float | None = Field(
        default=None, ge=0, le=1
    )  # least share of points with a place, exact or near
    inventions: int | None = Field(default=None, ge=0)  # most inventions, unknown numbers included
    loops: int | None = Field(default=None, ge=0)  # most answers stopped in a loop


class Expected(_Strict):
    """What is known of one document. A fact or invention is its spelling, or a list of alternatives."""

    facts: list[Spellings] = Field(min_length=1)
    inventions: list[Spellings] = []


class Facts(_Strict):
    """A facts file.

    Attributes:
        folder: where the documents are, relative to the file; without it numbers are not compared.
        documents: what is known, by the path that the bundle gives a document.
    """

    folder: str | None = None
    bar: Bar = Bar()
    documents: dict[str, Expected] = Field(min_length=1)


@dataclass(frozen=True)
class DocumentCheck:
    """What was found in one document's summary. Lists of facts have their first spelling."""

    path: str
    state: str
    words: int
    exact: int  # points whose quotation is in the document word for word
    near: int
    unlocated: int
    carried: list[str]
    missing: list[str]
    inventions: list[str]
    unknown_numbers: list[str]
    loops: int

    @property
    def points(self) -> int:
        """How many there are."""
        return self.exact + self.near + self.unlocated


@dataclass(frozen=True)
class Check:
    """What was found in a bundle."""

    documents: list[DocumentCheck]
    bar: Bar

    def totals(self) -> dict[str, int]:
        """Counts over all documents."""
        every = self.documents
        return {
            "documents": len(every),
            "failed": sum(one.state != "succeeded" for one in every),
            "facts": sum(len(one.carried) + len(one.missing) for one in every),
            "carried": sum(len(one.carried) for one in every),
            "points": sum(one.points for one in every),
            "exact": sum(one.exact for one in every),
            "near": sum(one.near for one in every),
            "unlocated": sum(one.unlocated for one in every),
            "inventions": sum(len(one.inventions) for one in every),
            "unknown_numbers": sum(len(one.unknown_numbers) for one in every),
            "loops": sum(one.loops for one in every),
        }

    def shortfalls(self) -> list[str]:
        """What the bar demands and the bundle does not reach, in sentences."""
        totals, bar, found = self.totals(), self.bar, []
        if totals["failed"]:
            found.append(f"{totals['failed']} documents were not done.")
        if bar.facts is not None and totals["carried"] < bar.facts * totals["facts"]:
            found.append(f"{totals['carried']} of {totals['facts']} facts are carried, not {bar.facts:.0%}.")
        placed = totals["exact"] + totals["near"]
        if bar.placed is not None and (placed < bar.placed * totals["points"] or not totals["points"]):
            found.append(f"{placed} of {totals['points']} points have a place, not {bar.placed:.0%}.")
        inventions = totals["inventions"] + totals["unknown_numbers"]
        if bar.inventions is not None and inventions > bar.inventions:
            found.append(f"{inventions} inventions, not {bar.inventions} at most.")
        if bar.loops is not None and totals["loops"] > bar.loops:
            found.append(f"{totals['loops']} answers were stopped in a loop, not {bar.loops} at most.")
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "totals": self.totals(),
            "bar": self.bar.model_dump(exclude_none=True),
            "shortfalls": self.shortfalls(),
            "documents": [asdict(one) for one in self.documents],
        }


def check(bundle: Path, facts_file: Path) -> Check:
    """Checks `documents.jsonl` of a bundle. Raises LocalError, also for a document that is not in it."""
    facts = read_facts(facts_file)
    lines = _lines(bundle / "documents.jsonl")
    absent = sorted(facts.documents.keys() - lines.keys())
    if absent:
        raise LocalError(f"The bundle has no document '{absent[0]}', of which {facts_file.name} lists facts.")
    folder = None if facts.folder is None else facts_file.parent / facts.folder
    return Check(
        [
            _checked(lines[path], expected, None if folder is None else _text(folder / path))
            for path, expected in sorted(facts.documents.items())
        ],
        facts.bar,
    )


def read_facts(file: Path) -> Facts:
    """Reads a facts file. Raises LocalError."""
    try:
        return Facts.model_validate(tomllib.loads(_text(file)))
    except tomllib.TOMLDecodeError as error:
        raise LocalError(f"{file} is not valid TOML: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise LocalError(f"{file}: {where}: {first['msg']}.") from None


def _checked(line: dict[str, Any], expected: Expected, document: str | None) -> DocumentCheck:
    points = line["points"]
    summary = "\n".join(point["text"] for point in points)
    carried = occurring(expected.facts, summary)
    invented = occurring(expected.inventions, summary)
    known = None if document is None else set(_NUMBER.findall(document))
    numbers = dict.fromkeys(_NUMBER.findall(summary))
    exact = sum(point["located"] for point in points)
    near = sum(point.get("match") == "near" for point in points)
    return DocumentCheck(
        path=line["path"],
        state=line["state"],
        words=len(summary.split()),
        exact=exact,
        near=near,
        unlocated=len(points) - exact - near,
        carried=[_first(fact) for fact, found in zip(expected.facts, carried, strict=True) if found],
        missing=[_first(fact) for fact, found in zip(expected.facts, carried, strict=True) if not found],
        inventions=[_first(one) for one, found in zip(expected.inventions, invented, strict=True) if found],
        unknown_numbers=[] if known is None else [one for one in numbers if one not in known],
        loops=len(line.get("repeated") or ()),
    )


def occurring(facts: Sequence[Spellings], text: str) -> list[bool]:
    """For each fact, whether one of its spellings is in the text as whole words.

    Upper and lower case, white space, asterisks and kinds of quotation marks and dashes do not count. `15` is
    not in `2015` or `15,5`.
    """
    plain = _plain(text)
    patterns = (
        "|".join(re.escape(_plain(one)) for one in ([fact] if isinstance(fact, str) else fact))
        for fact in facts
    )
    return [
        re.search(rf"(?<!\w)(?<!\d[.,])(?:{pattern})(?!\w)(?![.,]\d)", plain) is not None
        for pattern in patterns
    ]


def _first(fact: Spellings) -> str:
    return fact if isinstance(fact, str) else fact[0]


def _plain(text: str) -> str:
    return " ".join(text.translate(_ALIKE).replace("*", "").casefold().split())


def _lines(file: Path) -> dict[str, dict[str, Any]]:
    try:
        found = [json.loads(line) for line in _text(file).splitlines()]
        return {line["path"]: line for line in found if line["points"] is not None}
    except (ValueError, TypeError, KeyError):
        raise LocalError(f"{file} is not the documents.jsonl of a bundle.") from None


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise LocalError(f"{file} is larger than 1 GiB.")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(f"{file} cannot be read: {error}") from None
