"""Lists an external folder through an fsspec driver: completely, or with an error."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from store.errors import Unavailable

MAX_FILES = 100_000
MAX_PATH_BYTES = 1000  # paths are indexed, and an index entry holds at most 2,704 bytes
# A file this young may change again without a new time, so it gets no fingerprint and is read again.
_SETTLED_SECONDS = 2.0
# Object stores: a folder is only part of a name, and the first one is a bucket.
_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})


class SourceUnavailable(Unavailable):
    """A source or destination could not be read or written."""

    code = "source_away"


class SourceTooLarge(SourceUnavailable):
    """A source has more files than the service allows."""

    code = "source_too_large"


@dataclass(frozen=True)
class Entry:
    """A file of a source. Its fingerprint changes with its content; None if that is not certain."""

    path: str
    size: int  # bytes
    fingerprint: str | None
    unusable: str | None = None  # why it cannot be a document under its name; `path` is then a substitute


def entries(files: Any, root: str, wanted: Callable[[str], bool], most: int) -> list[Entry]:
    """The files below `root` whose paths are wanted, sorted.

    Raises SourceUnavailable if any folder cannot be read, as its files would seem deleted; SourceTooLarge;
    and the errors of the driver.
    """
    found = list[Entry]()
    for path, info in _below(files, root):
        if not wanted(path) or not _is_file(info):
            continue
        if len(found) == most:
            raise SourceTooLarge(
                f"The source has more than {most:,} files. Choose a subfolder or a glob, or have the "
                "operator raise PALIMPSEST_MAX_SOURCE_FILES."
            )
        found.append(_entry(path, info))
    return sorted(found, key=lambda entry: entry.path)


def protocols(files: Any) -> frozenset[str]:
    """The protocol names of a file system."""
    return frozenset((files.protocol,) if isinstance(files.protocol, str) else files.protocol)


def has_buckets(files: Any) -> bool:
    """Whether it is an object store: it lists everything at once and needs no folders created."""
    return not _BUCKETS.isdisjoint(protocols(files))


def said(error: Exception) -> str:
    """A driver's message, without URLs, as these may be signed."""
    return re.sub(r"\S+://\S+", "(a URL)", str(error))[:300] or type(error).__name__


def _below(files: Any, root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Paths below `root` that are not folders, with the driver's details of each."""
    start = root.rstrip("/") + "/"
    listed = files.find(root, detail=True).items() if has_buckets(files) else _walked(files, root, start)
    for name, info in listed:
        path = name.removeprefix(start)
        # A name with a trailing slash is an empty object that marks a folder.
        if name.startswith(start) and path and not path.endswith("/"):
            yield path, info


def _walked(files: Any, root: str, start: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Like fsspec's `find`, which treats an unreadable folder as empty. Skips hidden folders."""
    folders = [root]
    while folders:
        folder = folders.pop()
        for info in _listed(files, folder, root, start):
            name = info["name"].rstrip("/")
            if info.get("type") != "directory":
                yield name, info
            elif name.startswith(start) and name != folder and not name.rpartition("/")[2].startswith("."):
                folders.append(name)


def _listed(files: Any, folder: str, root: str, start: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = files.ls(folder, detail=True)
    except Exception as error:  # each driver has its own errors
        if folder == root:
            raise
        if isinstance(error, FileNotFoundError):  # removed in the meantime
            return []
        path = _shown(folder.removeprefix(start))
        raise SourceUnavailable(f"The folder '{path}' cannot be read: {said(error)}") from error
    return found


def _is_file(info: dict[str, Any]) -> bool:
    """Not a folder, pipe or device. A link may lead to a file; opening it will tell."""
    return info.get("type", "file") == "file" or bool(info.get("islink"))


def _entry(path: str, info: dict[str, Any]) -> Entry:
    size, fingerprint = int(info.get("size") or 0), _fingerprint(info)
    shown = _shown(path)
    unusable = None if shown == path else "The file name is not UTF-8 text."
    if len(shown.encode()) > MAX_PATH_BYTES:
        unusable = f"The path is longer than {MAX_PATH_BYTES:,} bytes."
        digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
        shown = f"{shown[:200]}… ({digest[:16]})"
    return Entry(shown, size, fingerprint, unusable)


def _shown(path: str) -> str:
    """The path as text; bytes that are not UTF-8 become escapes."""
    raw = path.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace").replace("\0", "\\0")


def _fingerprint(info: dict[str, Any]) -> str | None:
    if info.get("islink"):
        return None  # these are the details of the link, not of the file
    for name in ("ETag", "etag", "md5Hash", "content_md5"):
        if info.get(name):
            return f"{info[name]}".strip('"')
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        moment = info.get(name)
        if moment is None:
            continue
        seconds = moment if isinstance(moment, float | int) else getattr(moment, "timestamp", lambda: None)()
        if seconds is not None and time.time() - seconds < _SETTLED_SECONDS:
            return None
        return f"{moment}/{info.get('size')}/{info.get('ino', '')}"
    return None
