"""What a document has to be, whichever way it comes: UTF-8 text with something in it."""

from __future__ import annotations

import codecs
from pathlib import PurePosixPath

from store.errors import Refused

# The formats this version reads, by the name's ending; the text itself decides whether it is text.
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
        message = f"Files ending in '{suffix}' are not read; these are: {known}."
        raise Refused("unsupported_document", message, "source")
    return TEXT_SUFFIXES.get(suffix, "text/plain")


class TextGuard:
    """Refuses what is not UTF-8 text while it streams by; holds at most an unfinished character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._seen = 0
        self._has_content = False

    def feed(self, chunk: bytes) -> None:
        """Raises Refused document_not_text at the first byte that cannot be text."""
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
        """Raises Refused document_empty or, for a character cut in half, document_not_text."""
        try:
            self._decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise not_text("it ends in the middle of a UTF-8 character", b"") from error
        if not self._has_content:
            what = "no bytes" if self._seen == 0 else "nothing but white space"
            raise Refused("document_empty", f"The document holds {what}.", "file")


def not_text(why: str, start: bytes) -> Refused:
    """The error for bytes that are not UTF-8 text; names the format where its first bytes give it away."""
    looks_like = next(
        (f" It looks like {what}." for sign, what in _SIGNATURES.items() if start.startswith(sign)), ""
    )
    message = f"The document is not UTF-8 text: {why}.{looks_like} Only text (txt, md) is read."
    return Refused("document_not_text", message, "file")
