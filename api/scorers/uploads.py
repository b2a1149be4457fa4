"""Uploads of scorers: the files of a form are streamed to the blob store, limited and hashed on the way."""

import hashlib
import json
import re
from contextlib import ExitStack
from typing import IO, Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from api.http.blob_writer import storing
from api.http.multipart import Form, Part, Sink, is_multipart
from api.http.uploads import batches
from api.problems import Problem
from api.scorers.schemas import VERSION_PATTERN, storable
from store.blobs import Blobs
from store.ids import new_id
from store.scorers.registry import UPLOADS

MIB = 1 << 20
# Parts of the form: blob name and size limit. The trainer's checkpoint has 200 MB of matrices that
# verification drops.
FILES = {
    "scorer": ("scorer.safetensors", 16 * MIB),
    "manifest": ("manifest.json", MIB),
    "checkpoint": ("checkpoint.pt", 1024 * MIB),
}
KINDS = {frozenset({"scorer", "manifest"}): "safetensors", frozenset({"checkpoint"}): "reference"}


class ScorerUpload:
    """The files of a form. Their blobs are under `prefix` until `discard`; all methods may block."""

    def __init__(self, blobs: Blobs, name: str) -> None:
        self.prefix = f"{UPLOADS}/{new_id('upl')}"
        self.version: str | None = None
        self.kind = ""
        self.hashes: dict[str, str] = {}  # by part
        self._blobs = blobs
        self._name = name
        self._stack = ExitStack()
        self._manifest = bytearray()
        self._version = bytearray()
        self._versioned = False

    @property
    def sha256(self) -> str:
        """Hash of the names and hashes of all parts, the same for the same files."""
        lines = "".join(f"{part} {self.hashes[part]}\n" for part in sorted(self.hashes))
        return hashlib.sha256(lines.encode()).hexdigest()

    def begin(self, part: Part) -> Sink | None:
        """The sink for the bytes of a part. Raises Problem: too_many_files, storage_full."""
        self._close()
        if part.name != "version" and part.name not in FILES:
            return None
        if part.name in self.hashes or (part.name == "version" and self._versioned):
            detail = f"The form has more than one part named '{part.name}'."
            raise Problem(422, "too_many_files", detail, field=part.name)
        if part.name == "version":
            self._versioned = True
            return self._read_version
        file_name, limit = FILES[part.name]
        self.hashes[part.name] = hashlib.sha256().hexdigest()
        with storing():
            file = self._stack.enter_context(self._blobs.create(f"{self.prefix}/{file_name}"))
        return self._sink(part.name, limit, file)

    def _sink(self, part: str, limit: int, file: IO[bytes]) -> Sink:
        digest = hashlib.sha256()
        received = 0

        def write(chunk: bytes) -> None:
            nonlocal received
            received += len(chunk)
            if received > limit:
                raise too_large(part, limit)
            if part == "manifest":
                self._manifest.extend(chunk)
            digest.update(chunk)
            self.hashes[part] = digest.hexdigest()
            with storing():
                file.write(chunk)

        return write

    def _read_version(self, chunk: bytes) -> None:
        self._version += chunk
        if len(self._version) > 100:
            raise _bad_version()

    def _close(self) -> None:
        with storing():
            self._stack.close()

    def finish(self) -> None:
        """Checks the complete form.

        Raises Problem: scorer_files, invalid_manifest, scorer_name_differs, invalid_version, storage_full.
        """
        self._close()
        kind = KINDS.get(frozenset(self.hashes))
        if kind is None:
            found = ", ".join(sorted(self.hashes)) or "none of them"
            detail = f"The form needs the parts 'scorer' and 'manifest', or 'checkpoint'; it has: {found}."
            raise Problem(422, "scorer_files", detail, field="scorer")
        self.kind = kind
        version: Any = self._version.decode("utf-8", "replace") or None
        if kind == "safetensors":
            manifest = self._checked_manifest()
            version = version or manifest.get("version")
        if version is not None and not (isinstance(version, str) and re.fullmatch(VERSION_PATTERN, version)):
            raise _bad_version()
        self.version = version

    def _checked_manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads(self._manifest)
        except (ValueError, RecursionError) as error:
            raise _bad_manifest(f"it is not JSON: {error}") from None
        if not isinstance(manifest, dict):
            raise _bad_manifest("it is not a JSON object")
        why = storable(manifest)
        if why is not None:
            raise _bad_manifest(why)
        if manifest.get("name", self._name) != self._name:
            detail = f"The manifest names another scorer than '{self._name}', which it was uploaded to."
            raise Problem(422, "scorer_name_differs", detail, field="manifest")
        return manifest

    def discard(self) -> None:
        """Deletes what was stored."""
        self._stack.pop_all().__exit__(Discarded, Discarded(), None)
        self._blobs.delete_folder(self.prefix)


class Discarded(Exception):
    """Raised into the writer of a partial blob, so that it is discarded."""


async def receive_scorer(request: Request, blobs: Blobs, name: str) -> ScorerUpload:
    """Stores the files of a form, or nothing if it raises.

    Raises Problem: multipart_required, scorer_too_large, and those of `Form`, `ScorerUpload` and `batches`.
    """
    if not is_multipart(request):
        detail = "A scorer must be uploaded as multipart/form-data."
        raise Problem(415, "multipart_required", detail, field="Content-Type")
    declared = request.headers.get("content-length", "")
    limit = FILES["checkpoint"][1] + 2 * MIB
    if declared.isdecimal() and (len(declared) > 19 or int(declared) > limit):
        raise too_large("checkpoint", FILES["checkpoint"][1])
    upload = ScorerUpload(blobs, name)
    try:
        form = Form(request, upload.begin)
        async for batch in batches(request):
            await run_in_threadpool(form.feed, batch)
        form.finish()
        await run_in_threadpool(upload.finish)
    except BaseException:
        await run_in_threadpool(upload.discard)
        raise
    return upload


def too_large(part: str, limit: int) -> Problem:
    """The problem for a part above its size limit."""
    detail = f"The part '{part}' is larger than {limit:,} bytes."
    headers = {"connection": "close"}
    return Problem(413, "scorer_too_large", detail, field=part, headers=headers, max_bytes=limit)


def _bad_manifest(why: str) -> Problem:
    return Problem(422, "invalid_manifest", f"The manifest is invalid: {why}.", field="manifest")


def _bad_version() -> Problem:
    detail = "A version is 1 to 99 letters, digits, '.', '_' or '-', and starts with a letter or digit."
    return Problem(422, "invalid_version", detail, field="version")
