"""Globs of paths below a folder, matched name by name, so that none takes long whatever is written in it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

EVERYTHING = "**/*"
MAX_WILDCARDS = 8  # `*` and `**`; people need two or three

_Name = Callable[[str], object]


class GlobInvalid(ValueError):
    """What is wrong with a glob, in a sentence."""


def matching(glob: str | None) -> Callable[[str], bool]:
    """Whether a path below a folder is meant; hidden ones never are. Raises GlobInvalid."""
    parts = _parts(glob or EVERYTHING)

    def matches(path: str) -> bool:
        names = path.split("/")
        # All the places in the glob where one can be after the names so far: no going back, no blow-up.
        at = _with_skipped(parts, {0})
        for name in names:
            if name.startswith("."):
                return False
            at = _with_skipped(parts, {to for place in at for to in _after(parts, place, name)})
        return len(parts) in at

    return matches


def _after(parts: list[_Name | None], place: int, name: str) -> tuple[int, ...]:
    if place == len(parts):
        return ()
    part = parts[place]
    if part is None:
        return (place,)
    return (place + 1,) if part(name) else ()


def _with_skipped(parts: list[_Name | None], at: set[int]) -> set[int]:
    """`**` may stand for no name at all. Two of them never follow each other."""
    return at | {place + 1 for place in at if place < len(parts) and parts[place] is None}


def _parts(glob: str) -> list[_Name | None]:
    """One matcher of a name for each part; None for `**`."""
    found = list[_Name | None]()
    if len(re.findall(r"\*+", glob)) > MAX_WILDCARDS:
        raise GlobInvalid(f"A glob has at most {MAX_WILDCARDS} wildcards '*' and '**'.")
    for part in glob.split("/"):
        if not part:
            raise GlobInvalid(
                "A glob is of paths below the folder: no '/' begins or ends it or follows another."
            )
        if part == "**":
            if not found or found[-1] is not None:
                found.append(None)
        elif "**" in part:
            raise GlobInvalid("In a glob '**' stands alone between slashes, as in '**/*.txt'.")
        else:
            # In what fnmatch makes, each '*' is settled once and for all: no backtracking.
            found.append(re.compile(fnmatch.translate(part)).match)
    if found[-1] is None:
        found.append(re.compile(".", re.DOTALL).match)  # at the end it stands for one name or more
    return found
