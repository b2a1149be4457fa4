"""The texts that real documents are made of, by split: each source file belongs to exactly one."""

import ast
import random
import re
import runpy
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import numpy

from namm_runtime.errors import Refusal
from namm_runtime.tasks.filler import FILE_CLASSES, ordinary_files
from namm_runtime.tasks.words import Split

Kind = Literal["prose", "code"]

TOPICS = "pydoc_data/topics.py"
_BLOCK = re.compile(r"\n[ \t]*\n\s*?(?=\S|[ \t]+\S)")
_SHORTEST_DOCSTRING = 100  # characters
_SHORTEST_FILE = 400
_TABLES = "encodings/"  # most of these files are one long table
_LONGEST_FILE = 1 << 20
_FOLDER_SUFFIXES = {
    ".txt": "prose", ".md": "prose", ".rst": "prose", ".py": "code", ".js": "code", ".ts": "code",
    ".c": "code", ".h": "code", ".cpp": "code", ".java": "code", ".go": "code", ".rs": "code", ".sh": "code",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A file that documents take text from.

    Attributes:
        name: its path relative to the standard library, a package or the folder.
    """

    name: str
    path: Path
    kind: Kind

    def blocks(self) -> tuple[str, ...]:
        """Its text in order, in paragraphs or blocks of code. They contain no empty lines at their ends."""
        return _blocks(self)


def library_sources(split: Split) -> tuple[Source, ...]:
    """Documentation, docstrings, licences and code of the standard library, and docstrings of NumPy.

    Files are assigned to splits as those of `namm_runtime.tasks.filler` are, so no scorer or model was fitted
    on a file of another split.

    Raises:
        RuntimeError: if this Python has no readable library source.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in ordinary_files(split):
        name = path.relative_to(root).as_posix()
        if path.suffix == ".txt" or name == TOPICS:
            found.append(Source(name, path, "prose"))
        elif path.stat().st_size >= _SHORTEST_FILE and not name.startswith(_TABLES):
            found += [Source(name, path, "prose"), Source(name, path, "code")]
    return (*found, *_numpy_sources(split))


def folder_sources(folder: Path, split: Split) -> tuple[Source, ...]:
    """Text and code files of a folder and those below it.

    Raises:
        Refusal: `bad_tasks` if the folder has none for this split.
    """
    if not folder.is_dir():
        raise Refusal("bad_tasks", f"'{folder}' is not a folder")
    found = []
    for path in sorted(folder.rglob("*")):
        kind = _FOLDER_SUFFIXES.get(path.suffix.lower())
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if kind and not hidden and path.is_file() and path.stat().st_size <= _LONGEST_FILE:
            found.append(Source(name, path, "prose" if kind == "prose" else "code"))
    found = [source for source in found if in_split(source.name, split) and source.blocks()]
    if not found:
        raise Refusal(
            "bad_tasks",
            f"'{folder}' has no text or code files for the {split} split (files are assigned by name)",
        )
    return tuple(found)


def in_split(name: str, split: Split) -> bool:
    """Whether a file belongs to a split; decided by a checksum of its relative path."""
    return zlib.crc32(name.encode()) % 8 in FILE_CLASSES[split]


class Shelf:
    """Gives out the blocks of the sources of one kind, file after file in a seeded order.

    Nothing is given out twice until everything has been.
    """

    def __init__(self, sources: tuple[Source, ...], kind: Kind, rng: random.Random) -> None:
        self.kind = kind
        self._sources = [source for source in sources if source.kind == kind]
        self._blocks = self._endless(rng)

    def __bool__(self) -> bool:
        return bool(self._sources)

    def take(self) -> str:
        return next(self._blocks)

    def _endless(self, rng: random.Random) -> Iterator[str]:
        while self._sources:
            rng.shuffle(self._sources)
            for source in self._sources:
                yield from source.blocks()


@cache
def _numpy_sources(split: Split) -> tuple[Source, ...]:
    root = Path(numpy.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        name = f"numpy/{path.relative_to(root).as_posix()}"
        if "tests" not in path.parts and path.stat().st_size >= _SHORTEST_FILE and in_split(name, split):
            found.append(Source(name, path, "prose"))
    return tuple(found)


@lru_cache(maxsize=4096)
def _blocks(source: Source) -> tuple[str, ...]:
    try:
        text = source.path.read_text(encoding="utf-8").replace("\r\n", "\n").replace("\0", "")
    except (UnicodeDecodeError, OSError):
        return ()
    if source.name == TOPICS:
        topics: dict[str, str] = runpy.run_path(str(source.path))["topics"]
        texts = [topics[name] for name in sorted(topics)]
    elif source.kind == "prose" and source.path.suffix == ".py":
        texts = _docstrings(text)
    else:
        texts = [text]
    return tuple(block for text in texts for block in _split(text))


def _split(text: str) -> list[str]:
    blocks = (block.strip("\n").rstrip() for block in _BLOCK.split(text))
    return [block for block in blocks if block.strip()]


def _docstrings(text: str) -> list[str]:
    """The docstrings of a module, each under the name that it documents, as a reference manual has them."""
    try:
        module = ast.parse(text)
    except SyntaxError:
        return []
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring and len(docstring) >= _SHORTEST_DOCSTRING:
                name = "" if isinstance(node, ast.Module) else f"{_signature(node)}\n\n"
                found.append(name + docstring)
    return found


def _signature(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}"
    return f"{node.name}({ast.unparse(node.args)})"
