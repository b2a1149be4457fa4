"""Checks that a document is UTF-8 text and not empty, wherever it comes from."""

from __future__ import annotations

import codecs
from pathlib import PurePosixPath

from store.errors import Refused

# The supported formats by file extension; the content decides whether it is text.
TEXT_SUFFIXES = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
}
_SIGNATURES = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a ZIP or Office file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x1f\x8b": "a gzip file",
    b"\x89PNG": "a PNG image",
}


def kind_of(name: str) -> str:
    """The media type of a file, by its name. Raises Refused unsupported_document."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix and suffix not in TEXT_SUFFIXES:
        known = ", ".join(sorted(one.lstrip(".") for one in TEXT_SUFFIXES))
        message = f"Files with the extension '{suffix}' are not supported; supported are {known}."
        raise Refused("unsupported_document", message, "source")
    return TEXT_SUFFIXES.get(suffix, "text/plain")


class TextGuard:
    """Rejects a stream that is not UTF-8 text; buffers at most one unfinished character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._seen = 0
        self._has_content = False

    def feed(self, chunk: bytes) -> None:
        """Raises Refused document_not_text at the first invalid byte."""
        zero = chunk.find(b"\0")
        if zero >= 0:
            raise not_text(f"byte {self._seen + zero:,} is NUL", chunk if self._seen == 0 else b"")
        try:
            text = self._decoder.decode(chunk)
        except UnicodeDecodeError as error:
            raise not_text(f"it is not UTF-8 near byte {self._seen + error.start:,}", b"") from error
        self._seen += len(chunk)
        self._has_content = self._has_content or bool(text.strip("\ufeff \t\r\n\f\v"))

    def finish(self) -> None:
        """Raises Refused document_empty or, for a truncated character, document_not_text."""
        try:
            self._decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise not_text("it ends in the middle of a UTF-8 character", b"") from error
        if not self._has_content:
            detail = (
                "The document is empty." if self._seen == 0 else "The document contains only white space."
            )
            raise Refused("document_empty", detail, "file")


def not_text(why: str, start: bytes) -> Refused:
    """The error for bytes that are not UTF-8 text; names the format if its first bytes are recognized."""
    looks_like = next(
        (f" It looks like {what}." for sign, what in _SIGNATURES.items() if start.startswith(sign)), ""
    )
    message = f"The document is not UTF-8 text: {why}.{looks_like} Only text (txt, md) is supported."
    return Refused("document_not_text", message, "file")
