"""Folders outside the service, through fsspec: sources that documents come from, destinations of bundles.

Which ones may be used is the operator's to say, in the file that the setting `sources_file` names. It holds
the credentials too, so that none is ever in a row, a request or a log:

    [[source]]
    url = "s3://contracts/2027"      # this folder and all below it
    tenants = ["ten_default"]        # ids; left out, every tenant
    write = true                     # bundles may be put there; left out, it is only read
    options = {key = "…", secret = "…"}   # as the fsspec driver of the protocol takes them
"""

from __future__ import annotations

import os
import re
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.utils import glob_translate

from store.errors import Refused, StoreError
from store.settings import Settings

EVERYTHING = "**/*"
_CREDENTIALS = re.compile(r"^[a-z0-9+.-]+://[^/]*@|[?#]", re.IGNORECASE)
# A file written so recently may be written again without its time changing: it is read again next time.
_SETTLED_SECONDS = 2.0


class SourcesBroken(StoreError):
    """The sources file cannot be used."""

    code = "sources_broken"


class SourceAway(StoreError):
    """A source or destination did not answer as it should."""

    code = "source_away"


@dataclass(frozen=True)
class Entry:
    """A file below a source; its fingerprint changes with its content, or is None if that is not sure."""

    path: str
    size: int  # bytes
    fingerprint: str | None


@dataclass(frozen=True)
class Grant:
    """A folder that may be used."""

    url: str
    tenants: tuple[str, ...] = ()  # empty = every one
    write: bool = False
    options: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Folder:
    """An allowed folder, opened."""

    files: Any  # fsspec file system
    root: str
    limit: str  # the granted folder, which nothing may lead out of

    def entries(self, glob: str | None) -> list[Entry]:
        """The files whose path below the folder matches, sorted; hidden ones are left out.

        Raises SourceAway, also for a folder that is not there.
        """
        wanted = matching(glob)
        self.files.invalidate_cache()
        try:
            if not self.files.isdir(self.root):
                raise SourceAway("There is no such folder, or it cannot be read.")
            found = self.files.find(self.root, detail=True)
        except SourceAway:
            raise
        except Exception as error:  # each driver has its own
            raise SourceAway(f"It cannot be listed: {_said(error)}") from error
        below = {name[len(self.root.rstrip("/")) + 1 :]: info for name, info in found.items()}
        return [
            Entry(path, int(info.get("size") or 0), _fingerprint(info))
            for path, info in sorted(below.items())
            if wanted(path)
        ]

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        """A file to read. Raises SourceAway."""
        try:
            file = self.files.open(self._inside(path), "rb")
        except SourceAway:
            raise
        except Exception as error:
            raise SourceAway(f"It cannot be opened: {_said(error)}") from error
        with file:
            try:
                yield file
            except OSError as error:
                raise SourceAway(f"It cannot be read: {_said(error)}") from error

    def put(self, name: str, local: Path) -> None:
        """Copies a file there; where the driver can rename, nobody sees half of it. Raises SourceAway."""
        target = f"{self.root.rstrip('/')}/{name}"
        try:
            self.files.makedirs(target.rpartition("/")[0], exist_ok=True)
            if _is_local(self.files):
                self._inside(name)
                part = f"{target}.partial"
                self.files.put_file(str(local), part)
                os.replace(part, target)
            else:
                self.files.put_file(str(local), target)
        except SourceAway:
            raise
        except Exception as error:
            raise SourceAway(f"It cannot be written: {_said(error)}") from error

    def _inside(self, path: str) -> str:
        full = f"{self.root.rstrip('/')}/{path}"
        if _is_local(self.files) and not _below(os.path.realpath(full), self.limit):
            raise SourceAway("It is a link that leads out of the folder.")
        return full


class Sources:
    """What the operator allows."""

    def __init__(self, grants: list[Grant]) -> None:
        self._grants = grants

    def folder(self, tenant_id: str, url: str, *, write: bool = False) -> Folder:
        """An allowed folder. Raises Refused source_not_allowed, destination_not_allowed, source_invalid."""
        field = "to" if write else "source"
        files, root = _opened(url, {}, field)
        for grant in self._grants:
            if grant.tenants and tenant_id not in grant.tenants:
                continue
            if write and not grant.write:
                continue
            granted, limit = _opened(grant.url, grant.options, field)
            if type(granted) is type(files) and _below(root, limit):
                return Folder(granted, root, limit)
        remedy = "Whoever runs it can allow the folder in the file that PALIMPSEST_SOURCES_FILE names."
        if write:
            message = f"'{url}' may not be written to by this service. {remedy}"
            raise Refused("destination_not_allowed", message, field)
        raise Refused("source_not_allowed", f"'{url}' may not be read by this service. {remedy}", field)


def connect(config: Settings) -> Sources:
    """What the sources file of the settings allows; nothing if there is none. Raises SourcesBroken."""
    if config.sources_file is None:
        return Sources([])
    try:
        held = tomllib.loads(config.sources_file.read_text(encoding="utf-8"))
        grants = [
            Grant(one.pop("url"), tuple(one.pop("tenants", ())), bool(one.pop("write", False)), **one)
            for one in held.get("source", [])
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # Not what the file holds: that may be a secret.
        kind = type(error).__name__
        raise SourcesBroken(f"{config.sources_file} cannot be read as sources ({kind}).") from None
    return Sources(grants)


def matching(glob: str | None) -> Callable[[str], bool]:
    """Whether a path below a source is one of its documents; hidden ones are not."""
    matches = re.compile(glob_translate(glob or EVERYTHING)).match
    return lambda path: bool(matches(path)) and not any(part.startswith(".") for part in path.split("/"))


def _opened(url: str, options: dict[str, Any], field: str) -> tuple[Any, str]:
    if _CREDENTIALS.search(url):
        raise Refused("source_invalid", "A source's URL has no credentials, no '?' and no '#' in it.", field)
    if ".." in url.split("/") or "::" in url or "\0" in url:
        raise Refused("source_invalid", "A source's URL has no '..' and no '::' in it.", field)
    try:
        files, root = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise Refused("source_invalid", f"'{url}' cannot be used: {error}", field) from None
    if _is_local(files):
        root = os.path.realpath(root)
    return files, root


def _is_local(files: Any) -> bool:
    return "file" in ((files.protocol,) if isinstance(files.protocol, str) else files.protocol)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _fingerprint(info: dict[str, Any]) -> str | None:
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


def _said(error: Exception) -> str:
    """What a driver says, without what may hold a signed URL."""
    return re.sub(r"\S+://\S+", "(a URL)", str(error))[:300] or type(error).__name__
