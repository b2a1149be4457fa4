"""The shape of the tree: files short enough to read, packages that say what they are for, typed rooms."""

import ast
from pathlib import Path

import pytest

from tests.support import REPOSITORY

ROOMS = (
    "api",
    "worker",
    "store",
    "namm_runtime",
    "extraction",
    "palimpsest",
    "palimpsest_client",
    "migrations",
)
LONGEST = 350  # lines
FILES = sorted(file for top in (*ROOMS, "benchmarks", "tests") for file in (REPOSITORY / top).rglob("*.py"))
PACKAGES = sorted(
    file.parent
    for file in FILES
    if file.name == "__init__.py" and file.relative_to(REPOSITORY).parts[0] != "tests"
)


def named(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 300
    assert {named(package) for package in PACKAGES} >= {*ROOMS, "store/jobs", "namm_runtime/policies"}


def test_no_file_is_longer_than_one_sitting() -> None:
    lengths = {named(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGEST}
    assert not too_long, f"split these by what they are about; at most {LONGEST} lines: {too_long}"


@pytest.mark.parametrize("package", PACKAGES, ids=named)
def test_every_package_says_in_a_sentence_what_it_is_for(package: Path) -> None:
    said = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    first = said.partition("\n\n")[0]
    assert len(first.split()) >= 3, f"{named(package)}/__init__.py needs a sentence"
    assert first.endswith("."), f"{named(package)}/__init__.py: end the sentence with a full stop"


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_typed(room: str) -> None:
    assert (REPOSITORY / room / "py.typed").is_file()


def test_every_folder_with_code_is_a_package() -> None:
    """A folder without an `__init__` is left out of the built distribution."""
    folders = {file.parent for file in FILES if file.relative_to(REPOSITORY).parts[0] in ROOMS}
    assert not [named(folder) for folder in folders if not (folder / "__init__.py").exists()]
