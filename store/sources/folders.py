"""External folders, through fsspec: sources of documents and destinations of bundles.

The operator allows them in the file that the setting `sources_file` names. The file holds the credentials
too, so that none is ever in a row, a request or a log:

    [[source]]
    url = "s3://contracts/2027"      # this folder and everything below it
    tenants = ["ten_default"]        # ids; default: every tenant
    write = true                     # bundles may be written there; default: read-only
    options = {key = "…", secret = "…"}   # as the fsspec driver expects them
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec

from store.atomic_files import atomic_file
from store.errors import Refused, StoreError
from store.settings import Settings
from store.sources import listing
from store.sources.globs import GlobInvalid, matching
from store.sources.listing import Entry, SourceUnavailable, said

_CREDENTIALS = re.compile(r"^[a-z0-9+.-]+://[^/]*@|[?#]", re.IGNORECASE)


class SourcesBroken(StoreError):
    """The sources file cannot be used."""

    code = "sources_broken"


@dataclass(frozen=True)
class Grant:
    """Permission to use a folder."""

    url: str
    tenants: tuple[str, ...] = ()  # empty = all
    write: bool = False
    options: dict[str, Any] = field(default_factory=dict, repr=False)


class Reading:
    """An open file of a source; it tells read errors of the source from those of its reader."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Raises SourceUnavailable."""
        try:
            data: bytes = self._file.read(size)
        except Exception as error:  # each driver has its own errors
            raise SourceUnavailable(f"The file cannot be read: {said(error)}") from error
        return data


@dataclass(frozen=True)
class Folder:
    """An allowed folder, opened."""

    files: Any  # fsspec file system
    root: str
    limit: str  # the granted folder, which no path may leave
    max_files: int = listing.MAX_FILES

    def entries(self, glob: str | None) -> list[Entry]:
        """The files whose path below the folder matches, sorted; hidden files are left out.

        Raises SourceUnavailable, also for a missing folder, an unreadable subfolder, too many files, or an
        invalid glob.
        """
        try:
            wanted = matching(glob)
        except GlobInvalid as invalid:
            raise SourceUnavailable(str(invalid)) from None
        try:
            self.files.invalidate_cache()
            if not self.files.isdir(self.root):
                raise SourceUnavailable("The folder does not exist or cannot be read.")
            return listing.entries(self.files, self.root, wanted, self.max_files)
        except SourceUnavailable:
            raise
        except Exception as error:  # each driver has its own errors
            raise SourceUnavailable(f"The folder cannot be listed: {said(error)}") from error

    @contextmanager
    def open(self, path: str) -> Iterator[Reading]:
        """Opens a file to read. Raises SourceUnavailable."""
        try:
            full = self._inside(path)
            if self._is_local and not os.path.isfile(full):
                # Opening a pipe would wait for a writer, possibly for ever.
                raise SourceUnavailable("The file no longer exists, or is not a regular file.")
            file = self.files.open(full, "rb")
        except SourceUnavailable:
            raise
        except Exception as error:
            raise SourceUnavailable(f"The file cannot be opened: {said(error)}") from error
        try:
            yield Reading(file)
        finally:
            with suppress(Exception):  # it was read, or its reader has raised already
                file.close()

    def put(self, name: str, local: Path) -> None:
        """Copies a file into the folder, atomically if it is local. Raises SourceUnavailable."""
        try:
            target = self._inside(name)
            if not listing.has_buckets(self.files):  # there it would create a missing bucket
                self.files.makedirs(target.rpartition("/")[0], exist_ok=True)
            if self._is_local:
                with atomic_file(
                    Path(target), temporary=Path(f"{target}.partial"), durable=False
                ) as temporary:
                    self.files.put_file(str(local), str(temporary))
            else:
                self.files.put_file(str(local), target)
        except SourceUnavailable:
            raise
        except Exception as error:
            raise SourceUnavailable(f"The file cannot be written: {said(error)}") from error

    @property
    def _is_local(self) -> bool:
        return "file" in listing.protocols(self.files)

    def _inside(self, path: str) -> str:
        full = f"{self.root.rstrip('/')}/{path}"
        if self._is_local and not _below(os.path.realpath(full), self.limit):
            raise SourceUnavailable("The path is a link that leads out of the folder.")
        return full


class Sources:
    """The folders that the operator allows."""

    def __init__(self, grants: list[Grant], max_files: int = listing.MAX_FILES) -> None:
        self._grants, self._max_files = grants, max_files

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
                return replace(_opened(grant, granted, wanted, field), max_files=self._max_files)
        remedy = "The operator can allow it in the file that PALIMPSEST_SOURCES_FILE names."
        if write:
            message = f"This service may not write to '{url}'. {remedy}"
            raise Refused("destination_not_allowed", message, field)
        raise Refused("source_not_allowed", f"This service may not read '{url}'. {remedy}", field)


def connect(config: Settings) -> Sources:
    """The folders of the sources file; none without one. Raises SourcesBroken."""
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
        # Without the content, which may be secret.
        kind = type(error).__name__
        raise SourcesBroken(f"{config.sources_file} is not a valid sources file ({kind}).") from None
    return Sources(grants, config.max_source_files)


@dataclass(frozen=True)
class _Place:
    """A parsed URL, compared as text: no URL of a tenant is opened before a grant is found for it."""

    scheme: str
    host: str  # or bucket, or whatever the scheme puts there
    path: str  # local: with links resolved; else without surrounding slashes

    def is_below(self, granted: _Place) -> bool:
        if (self.scheme, self.host) != (granted.scheme, granted.host):
            return False
        return not granted.path or _below(self.path, granted.path)


def _place(url: str, field: str) -> _Place:
    """Raises Refused source_invalid."""
    if _CREDENTIALS.search(url):
        raise Refused("source_invalid", "A source URL must not contain credentials, '?' or '#'.", field)
    # Some drivers decode '%2e%2e' before they open it.
    if ".." in re.split(r"[/\\]", unquote(url)) or "::" in url or "\0" in unquote(url):
        raise Refused("source_invalid", "A source URL must not contain '..' or '::'.", field)
    scheme, mark, rest = url.partition("://")
    scheme = scheme.lower() if mark else "file"
    if scheme in ("file", "local"):
        path = rest if mark else url
        if mark and not path.startswith("/"):
            raise Refused(
                "source_invalid", "A file:// URL needs an absolute path, as in file:///srv/in.", field
            )
        return _Place("file", "", os.path.realpath(path))
    if scheme not in fsspec.available_protocols():
        raise Refused("source_invalid", f"'{url}' cannot be used: there is no driver for '{scheme}'.", field)
    host, _, path = rest.partition("/")
    return _Place(scheme, host, path.strip("/"))


def _opened(grant: Grant, granted: _Place, wanted: _Place, field: str) -> Folder:
    """Opens the grant's own URL; of the tenant's, only the path below it is used."""
    try:
        files, limit = fsspec.core.url_to_fs(grant.url, **grant.options)
    except Exception as error:  # each driver has its own errors; ImportError if it is not installed
        raise Refused(
            "source_invalid", f"The driver of the source cannot be started: {said(error)}", field
        ) from None
    if granted.scheme == "file":
        return Folder(files, wanted.path, granted.path)
    below = wanted.path[len(granted.path) :].strip("/")
    return Folder(files, f"{limit.rstrip('/')}/{below}" if below else limit, limit)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
