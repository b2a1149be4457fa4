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

import hashlib
import os
import re
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec

from store.errors import Refused, StoreError
from store.globs import GlobInvalid, matching
from store.settings import Settings

MAX_PATH_BYTES = 1000  # an index holds every path, and no more than 2,704 bytes of a row
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
    unusable: str | None = None  # why it cannot be a document under its own name; `path` is then another


@dataclass(frozen=True)
class Grant:
    """A folder that may be used."""

    url: str
    tenants: tuple[str, ...] = ()  # empty = every one
    write: bool = False
    options: dict[str, Any] = field(default_factory=dict, repr=False)


class Reading:
    """A file of a source. Only what goes wrong here is the source's fault, not what its reader does."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Raises SourceAway."""
        try:
            data: bytes = self._file.read(size)
        except Exception as error:  # each driver has its own
            raise SourceAway(f"It cannot be read: {_said(error)}") from error
        return data


@dataclass(frozen=True)
class Folder:
    """An allowed folder, opened."""

    files: Any  # fsspec file system
    root: str
    limit: str  # the granted folder, which nothing may lead out of

    def entries(self, glob: str | None) -> list[Entry]:
        """The files whose path below the folder matches, sorted; hidden ones are left out.

        Raises SourceAway, also for a folder that is not there and a stored glob that is none.
        """
        try:
            wanted = matching(glob)
        except GlobInvalid as invalid:
            raise SourceAway(str(invalid)) from None
        try:
            self.files.invalidate_cache()
            if not self.files.isdir(self.root):
                raise SourceAway("There is no such folder, or it cannot be read.")
            found = self.files.find(self.root, detail=True)
            start = self.root.rstrip("/") + "/"
            below = {name.removeprefix(start): info for name, info in found.items() if name.startswith(start)}
            entries = [_entry(path, info) for path, info in below.items() if _is_file(info) and wanted(path)]
        except SourceAway:
            raise
        except Exception as error:  # each driver has its own
            raise SourceAway(f"It cannot be listed: {_said(error)}") from error
        return sorted(entries, key=lambda entry: entry.path)

    @contextmanager
    def open(self, path: str) -> Iterator[Reading]:
        """A file to read. Raises SourceAway."""
        try:
            full = self._inside(path)
            if _is_local(self.files) and not os.path.isfile(full):
                # Opening a pipe waits for whoever writes to it, for ever.
                raise SourceAway("It is gone, or no regular file.")
            file = self.files.open(full, "rb")
        except SourceAway:
            raise
        except Exception as error:
            raise SourceAway(f"It cannot be opened: {_said(error)}") from error
        try:
            yield Reading(file)
        finally:
            with suppress(Exception):  # it has been read, or its reader has said what is wrong
                file.close()

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
        wanted = _place(url, field)
        for grant in self._grants:
            if grant.tenants and tenant_id not in grant.tenants:
                continue
            if write and not grant.write:
                continue
            granted = _place(grant.url, field)
            if wanted.is_below(granted):
                return _opened(grant, granted, wanted, field)
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
        for grant in grants:
            _place(grant.url, "source")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, Refused) as error:
        # Not what the file holds: that may be a secret.
        kind = type(error).__name__
        raise SourcesBroken(f"{config.sources_file} cannot be read as sources ({kind}).") from None
    return Sources(grants)


@dataclass(frozen=True)
class _Place:
    """What a URL says, compared as text: nothing of a tenant's URL is opened before it is found granted."""

    scheme: str
    host: str  # or bucket, or whatever the scheme has there
    path: str  # of a local folder with its links followed; else without slashes around it

    def is_below(self, granted: _Place) -> bool:
        if (self.scheme, self.host) != (granted.scheme, granted.host):
            return False
        return not granted.path or _below(self.path, granted.path)


def _place(url: str, field: str) -> _Place:
    """Raises Refused source_invalid."""
    if _CREDENTIALS.search(url):
        raise Refused("source_invalid", "A source's URL has no credentials, no '?' and no '#' in it.", field)
    # Some drivers decode '%2e%2e' before they ask.
    if ".." in re.split(r"[/\\]", unquote(url)) or "::" in url or "\0" in unquote(url):
        raise Refused("source_invalid", "A source's URL has no '..' and no '::' in it.", field)
    scheme, mark, rest = url.partition("://")
    scheme = scheme.lower() if mark else "file"
    if scheme in ("file", "local"):
        path = rest if mark else url
        if mark and not path.startswith("/"):
            raise Refused("source_invalid", "A file:// URL has three slashes, as in file:///srv/in.", field)
        return _Place("file", "", os.path.realpath(path))
    if scheme not in fsspec.available_protocols():
        raise Refused("source_invalid", f"'{url}' cannot be used: no driver is known for '{scheme}'.", field)
    host, _, path = rest.partition("/")
    return _Place(scheme, host, path.strip("/"))


def _opened(grant: Grant, granted: _Place, wanted: _Place, field: str) -> Folder:
    """The file system is the grant's own: of the tenant's URL only the path below is used."""
    try:
        files, limit = fsspec.core.url_to_fs(grant.url, **grant.options)
    except Exception as error:  # each driver has its own; ImportError if it is not installed
        raise Refused("source_invalid", f"Its driver cannot be started: {_said(error)}", field) from None
    if granted.scheme == "file":
        return Folder(files, wanted.path, granted.path)
    below = wanted.path[len(granted.path) :].strip("/")
    return Folder(files, f"{limit.rstrip('/')}/{below}" if below else limit, limit)


def _is_local(files: Any) -> bool:
    return "file" in ((files.protocol,) if isinstance(files.protocol, str) else files.protocol)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_file(info: dict[str, Any]) -> bool:
    """No folder, pipe or device. A link may lead to a file: opening it shows."""
    return info.get("type", "file") == "file" or bool(info.get("islink"))


def _entry(path: str, info: dict[str, Any]) -> Entry:
    size, fingerprint = int(info.get("size") or 0), _fingerprint(info)
    raw = path.encode("utf-8", "surrogateescape")  # as the file system has it
    shown = raw.decode("utf-8", "backslashreplace").replace("\0", "\\0")
    unusable = None if shown == path else "Its name is not UTF-8 text."
    if len(shown.encode()) > MAX_PATH_BYTES:
        unusable = f"Its path is longer than {MAX_PATH_BYTES:,} bytes."
        shown = f"{shown[:200]}… ({hashlib.sha256(raw).hexdigest()[:16]})"
    return Entry(shown, size, fingerprint, unusable)


def _fingerprint(info: dict[str, Any]) -> str | None:
    if info.get("islink"):
        return None  # what is said here is of the link, not of the file
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
