"""Files and directories that appear whole or not at all: written under a temporary name, then renamed.

The temporary name lies beside the target, so that the rename stays on one file system. A process that is
killed leaves it behind; whoever owns the directory removes what matches `LEFTOVERS` and has grown old.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEFTOVERS = ".*.partial"  # a glob of the temporary names


def temporary_path(directory: Path) -> Path:
    """A new hidden name in a directory; nothing is created."""
    return directory / f".{uuid.uuid4().hex}.partial"


@contextmanager
def atomic_file(target: Path, *, temporary: Path | None = None, durable: bool = True) -> Iterator[Path]:
    """A path to write a file at; it replaces `target` when the block ends, and vanishes if that raises.

    Args:
        temporary: where it is written; default: a new name. Where nobody removes leftovers it should be the
            same each time, so that a retry replaces what a killed process left.
        durable: the file and its name survive a power cut once the block has ended.
    """
    temporary = temporary or temporary_path(target.parent)
    try:
        yield temporary
        if durable:
            _sync(temporary)
        temporary.replace(target)
        if durable:
            _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """An empty directory to fill, open to its owner only; it becomes `target` when the block ends.

    It vanishes if the block raises, and where another process has made `target` in the meantime.
    """
    temporary = temporary_path(target.parent)
    temporary.mkdir(mode=0o700)
    try:
        yield temporary
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(target: Path, text: str, *, mode: int = 0o666) -> None:
    """Writes a UTF-8 file that has one writer, atomically.

    `mode` is what the umask is taken from, from the first byte on.
    """
    temporary = target.with_name(f".{target.name}.partial")
    temporary.unlink(missing_ok=True)  # what a killed process left; there is one writer
    with atomic_file(target, temporary=temporary):
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
