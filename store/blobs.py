"""Blobs: documents and snapshots, in a directory or behind any fsspec URL."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec

from store.atomic_files import LEFTOVERS, atomic_file, temporary_path
from store.errors import NotFound
from store.settings import Settings

PASSING = "evolution"  # a folder of short-lived blobs, whose writer may be killed


class Blobs:
    """A blob store that writes a blob whole or not at all.

    `location` is a local directory or an fsspec URL. `scratch` is a local directory for files on their way
    to and from a remote store; a local store does not use it.
    """

    def __init__(self, location: str, scratch: Path) -> None:
        # A cached listing would miss what other processes write.
        self._files, self._root = fsspec.core.url_to_fs(location, use_listings_cache=False)
        self._local = "file" in _protocols(self._files)
        self._scratch = scratch

    @contextmanager
    def create(self, key: str) -> Iterator[IO[bytes]]:
        """A file to write; it becomes the blob `key` when the block ends, and is discarded if that raises."""
        with self.create_path(key) as path, path.open("wb") as file:
            yield file

    @contextmanager
    def create_path(self, key: str) -> Iterator[Path]:
        """Like `create`, for writers that want a path. The file there at the end becomes the blob."""
        target = self._path(key)
        if self._local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(Path(target)) as temporary:
                yield temporary
            return
        self._scratch.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(self._scratch)
        try:
            yield temporary
            self._files.put_file(str(temporary), target)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """The blob to read. Raises NotFound."""
        try:
            file = self._files.open(self._path(key), "rb")
        except FileNotFoundError:
            raise NotFound(f"The blob {key} no longer exists.") from None
        with file:
            yield file

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """A local path of the blob: its own in a local store, else a copy that exists within the block."""
        if self._local:
            path = Path(self._path(key))
            if not path.is_file():
                raise NotFound(f"The blob {key} no longer exists.")
            yield path
            return
        self._scratch.mkdir(parents=True, exist_ok=True)
        copy = self._scratch / f"{uuid.uuid4().hex}.copy"
        try:
            with self.open(key) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        """Whether the blob exists."""
        return bool(self._files.exists(self._path(key)))

    def delete(self, key: str) -> None:
        """Removes the blob, if it exists."""
        try:
            self._files.rm_file(self._path(key))
        except FileNotFoundError:
            return

    def delete_folder(self, prefix: str) -> None:
        """Removes every blob in a folder, if it exists."""
        folder = self._path(prefix)
        if self._files.exists(folder):
            self._files.rm(folder, recursive=True)

    def names(self, prefix: str) -> list[str]:
        """The keys in a folder, relative to it, sorted."""
        folder = self._path(prefix)
        if not self._files.exists(folder):
            return []
        found = [str(path) for path in self._files.find(folder)]
        return sorted(path[path.index(folder) + len(folder) + 1 :] for path in found)

    def folders_unwritten(self, prefix: str, for_seconds: float) -> list[str]:
        """The keys of the folders directly in `prefix` without a write for `for_seconds`."""
        folder = self._path(prefix)
        if not self._files.exists(folder):
            return []
        newest: dict[str, float] = {}
        for path in self._files.find(folder):
            path = str(path)
            name = path[path.index(folder) + len(folder) + 1 :].partition("/")[0]
            try:
                written = self._files.modified(path).timestamp()
            except FileNotFoundError:
                continue  # removed in the meantime
            newest[name] = max(written, newest.get(name, 0.0))
        limit = time.time() - for_seconds
        return sorted(f"{prefix}/{name}" for name, written in newest.items() if written < limit)

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """Removes temporary local files that killed processes left behind; returns how many.

        A file without a write for `older_than_seconds` is a leftover. A remote store never holds partial
        blobs.
        """
        places = [(self._scratch, LEFTOVERS), (self._scratch, "*.copy")]
        if self._local:
            places += [(Path(self._root), LEFTOVERS), (Path(self._root) / PASSING, "*.*")]
        removed = 0
        for folder, pattern in places:
            for path in folder.rglob(pattern):
                try:
                    if path.is_file() and time.time() - path.stat().st_mtime > older_than_seconds:
                        path.unlink()
                        removed += 1
                except FileNotFoundError:
                    continue  # its writer finished, or another reaper was faster
        return removed

    def check(self) -> None:
        """Writes and removes a small blob. Raises the errors of the file system."""
        key = f"checks/{uuid.uuid4().hex}"
        with self.create(key) as file:
            file.write(b"ok")
        self.delete(key)

    def _path(self, key: str) -> str:
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"not a blob key: {key!r}")
        return f"{self._root.rstrip('/')}/{key}"


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def connect(config: Settings) -> Blobs:
    """The blob store that the settings name."""
    return Blobs(config.blobs, config.scratch)
