"""A folder of this machine as a collection of the service: what is new or changed is uploaded, no more."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from palimpsest.machine.data_directory import LocalError
from palimpsest_client import ApiError, Client
from store.documents.text_guard import TextGuard, kind_of
from store.errors import Refused
from store.sources.folders import Folder
from store.sources.listing import SourceUnavailable

_CHUNK = 1 << 20


@dataclass
class Synced:
    """What came of it: paths below the folder."""

    collection_id: str
    uploaded: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)  # and why; the collection knows it too


def sync(client: Client, folder: Path, name: str, glob: str | None, say: Callable[[str], None]) -> Synced:
    """Makes the collection `name` hold what the folder does; `say` is told of each file.

    A file that cannot be read now keeps the place that it had. Raises LocalError for a collection that is not
    this folder's.
    """
    root = os.path.realpath(folder)
    source = Folder(LocalFileSystem(), root, root)  # listed and read as the service's own sources are
    try:
        listed = {entry.path: entry.unusable for entry in source.entries(glob)}
    except SourceUnavailable as error:
        raise LocalError(f"{folder}: {error}") from None
    paths = list(listed)
    collection = _collection(client, name)
    held = {item["path"]: item for item in client.collection_documents(collection["id"])}
    if held and not held.keys() & set(paths):
        raise LocalError(
            f"The collection '{name}' holds {len(held):,} documents, none of which is in {folder}: "
            "give another --name, or delete the collection first."
        )
    found = Synced(collection["id"])
    documents = {item["sha256"]: item["document_id"] for item in held.values() if item["document_id"]}
    for number, path in enumerate(paths, 1):
        say(f"{number:,} of {len(paths):,} files: {path}")
        try:
            if unusable := listed[path]:
                raise Refused("path_invalid", unusable, "source")
            _put(client, found, source, path, held, documents)
        except (ApiError, Refused, SourceUnavailable) as error:
            _leave_out(client, found, path, error.code, str(error))
        except OSError as error:
            _leave_out(client, found, path, "source_away", error.strerror or str(error))
    for path in sorted(held.keys() - set(paths)):
        client.take_from_collection(found.collection_id, path)
        found.removed.append(path)
    return found


def _collection(client: Client, name: str) -> dict[str, Any]:
    try:
        found = client.collection(name)
    except ApiError as error:
        if error.code != "not_found":
            raise
        return client.create_collection(name)
    if found["source"] is not None:
        raise LocalError(f"The collection '{name}' is of {found['source']}: give another --name.")
    return found


def _put(
    client: Client, found: Synced, source: Folder, path: str, held: dict[str, Any], documents: dict[str, str]
) -> None:
    sha256 = _read(source, path)
    if path in held and held[path]["sha256"] == sha256:
        found.same.append(path)
        return
    document = documents.get(sha256)
    if document is None:  # else the file was moved, or is there twice
        document = client.upload(Path(source.root, path))["id"]
        found.uploaded.append(path)
    documents[sha256] = document
    client.put_in_collection(found.collection_id, path, document)


def _leave_out(client: Client, found: Synced, path: str, code: str, message: str) -> None:
    client.put_unreadable(found.collection_id, path, code, message)
    found.unreadable[path] = f"{code}: {message}"


def _read(source: Folder, path: str) -> str:
    """The file's sha256. Raises SourceUnavailable, Refused for what is no document."""
    kind_of(path)
    digest, guard = hashlib.sha256(), TextGuard()
    with source.open(path) as opened:
        while chunk := opened.read(_CHUNK):
            guard.feed(chunk)
            digest.update(chunk)
    guard.finish()
    return digest.hexdigest()
