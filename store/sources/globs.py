"""Globs of paths below a folder, matched name by name in bounded time."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

EVERYTHING = "**/*"
MAX_WILDCARDS = 8  # `*` and `**`

_Name = Callable[[str], object]


class GlobInvalid(ValueError):
    """A glob is malformed; the message says why."""


def matching(glob: str | None) -> Callable[[str], bool]:
    """A function that tells whether a path matches; hidden paths never do. Raises GlobInvalid."""
    parts = _parts(glob or EVERYTHING)

    def matches(path: str) -> bool:
        names = path.split("/")
        # All possible positions in the glob after the names so far: no backtracking, no blow-up.
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
    """`**` may match no name at all. There are never two in a row."""
    return at | {place + 1 for place in at if place < len(parts) and parts[place] is None}


def _parts(glob: str) -> list[_Name | None]:
    """One matcher per part of the glob; None for `**`."""
    found = list[_Name | None]()
    if len(re.findall(r"\*+", glob)) > MAX_WILDCARDS:
        raise GlobInvalid(f"A glob may have at most {MAX_WILDCARDS} wildcards '*' and '**'.")
    for part in glob.split("/"):
        if not part:
            raise GlobInvalid("A glob must not start or end with '/', or contain '//'.")
        if part == "**":
            if not found or found[-1] is not None:
                found.append(None)
        elif "**" in part:
            raise GlobInvalid("In a glob, '**' must stand alone between slashes, as in '**/*.txt'.")
        else:
            # fnmatch's expressions are atomic: no backtracking into a '*'.
            found.append(re.compile(fnmatch.translate(part)).match)
    if found[-1] is None:
        found.append(re.compile(".", re.DOTALL).match)  # at the end it matches one name or more
    return found
