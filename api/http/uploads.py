"""Reads an upload as it arrives: one chunk in memory, with a byte count and checks of the content."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import PurePath

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from api.http.multipart import FRAMING, Form, Part, Sink, is_multipart
from api.problems import Problem
from store.documents.text_guard import TEXT_SUFFIXES, TextGuard

MAX_NAME = 255
BATCH = 1024 * 1024
STALL_SECONDS = 60.0


@dataclass
class UploadFacts:
    """The metadata of an upload."""

    name: str
    media_type: str


def too_large(limit: int) -> Problem:
    """The problem for a document above the size limit."""
    return Problem(
        413,
        "document_too_large",
        f"The document is larger than the limit of {limit:,} bytes.",
        field="file",
        headers={"connection": "close"},
        max_bytes=limit,
    )


def refuse_declared_size(request: Request, limit: int) -> None:
    """Raises Problem if the Content-Length exceeds the limit, before the body is read."""
    declared = request.headers.get("content-length", "")
    if (
        declared.isdecimal()
        and len(declared) < 20
        and int(declared) > limit + (FRAMING if is_multipart(request) else 0)
    ):
        raise too_large(limit)


async def receive(
    request: Request, limit: int, write: Callable[[bytes], object], name: str | None
) -> UploadFacts:
    """Passes the document's bytes, the body or the part `file` of a form, to `write` as they arrive.

    `write` gets about a mebibyte at a time, in a worker thread, so that a slow disk blocks nobody else.
    Raises Problem: document_too_large as soon as `limit` is exceeded, malformed_multipart, file_missing,
    unsupported_document, upload_stalled. Raises Refused: document_not_text, document_empty.
    """
    refuse_declared_size(request, limit)
    guard = TextGuard()
    received = 0

    def consume(chunk: bytes) -> None:
        nonlocal received
        received += len(chunk)
        if received > limit:
            raise too_large(limit)
        guard.feed(chunk)
        write(chunk)

    declared_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = _DocumentForm(request, consume) if is_multipart(request) else None
    async for batch in batches(request):
        await run_in_threadpool(form.feed if form else consume, batch)
    if form:
        form.finish()
        name, declared_type = name or form.filename, form.content_type
    guard.finish()
    return _facts(name, declared_type)


async def batches(request: Request) -> AsyncIterator[bytes]:
    """The body in chunks of about BATCH bytes. Raises Problem upload_stalled if the client stalls."""
    waiting = bytearray()
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            detail = f"No data arrived for {STALL_SECONDS:.0f} seconds."
            raise Problem(408, "upload_stalled", detail, headers={"connection": "close"}) from error
        waiting += chunk or b""
        if waiting and (chunk is None or len(waiting) >= BATCH):
            yield bytes(waiting)
            waiting.clear()
        if chunk is None:
            return


def _facts(name: str | None, declared_type: str) -> UploadFacts:
    # The name is only a label, never used as a path; directories are cut off.
    label = PurePath((name or "document.txt").replace("\\", "/")).name.strip() or "document.txt"
    label = "".join(character for character in label if character.isprintable())
    if len(label) > MAX_NAME:
        raise Problem(422, "invalid_name", f"The name is longer than {MAX_NAME} characters.", field="name")
    suffix = PurePath(label).suffix.lower()
    if suffix and suffix not in TEXT_SUFFIXES and declared_type not in TEXT_SUFFIXES.values():
        known = ", ".join(sorted(suffix.lstrip(".") for suffix in TEXT_SUFFIXES))
        raise Problem(
            422,
            "unsupported_document",
            f"Files with the extension '{suffix}' are not supported; supported are {known}.",
            field="name",
        )
    guessed = TEXT_SUFFIXES.get(suffix, "text/plain")
    return UploadFacts(label, declared_type if declared_type in TEXT_SUFFIXES.values() else guessed)


class _DocumentForm:
    """Passes on the bytes of the part named `file` in a multipart form and ignores the rest."""

    def __init__(self, request: Request, sink: Sink) -> None:
        self.filename: str | None = None
        self.content_type = ""
        self._sink = sink
        self._found = False
        self._form = Form(request, self._begin)
        self.feed = self._form.feed

    def finish(self) -> None:
        self._form.finish()
        if not self._found:
            raise Problem(422, "file_missing", "The form has no part named 'file'.", field="file")

    def _begin(self, part: Part) -> Sink | None:
        if part.name != "file":
            return None
        if self._found:
            raise Problem(
                422, "too_many_files", "The form has more than one part named 'file'.", field="file"
            )
        self._found = True
        self.filename, self.content_type = part.filename, part.content_type
        return self._sink
