"""Streaming multipart forms: parts are passed on in chunks, and nothing is buffered."""

from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError

from api.problems import Problem

# Bytes allowed for boundaries, part headers and ignored parts; the rest counts against other limits.
FRAMING = 64 * 1024


@dataclass(frozen=True)
class Part:
    """The headers of a part."""

    name: str
    filename: str | None
    content_type: str


Sink = Callable[[bytes], None]


def is_multipart(request: Request) -> bool:
    """Whether the body is a multipart form."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


class Form:
    """A parser to feed with the body. `begin` returns the sink for each part's bytes, or None to ignore it.

    Raises Problem malformed_multipart, form_too_large, and the errors of `begin` and its sinks.
    """

    def __init__(self, request: Request, begin: Callable[[Part], Sink | None]) -> None:
        header = Message()
        header["content-type"] = request.headers["content-type"]
        boundary = header.get_param("boundary")
        if not isinstance(boundary, str) or not boundary:
            raise _malformed("the Content-Type has no boundary")
        self._begin = begin
        self._sink: Sink | None = None
        self._complete = False
        self._overhead = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._field = b""
        self._value = b""
        try:
            self._parser = MultipartParser(
                boundary.encode("latin-1", "replace"),
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
            )
        except MultipartParseError as error:
            raise _malformed(str(error)) from error

    def feed(self, chunk: bytes) -> None:
        """Parses the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise _malformed(str(error)) from error

    def finish(self) -> None:
        """Checks that the body is complete."""
        if not self._complete:
            raise _malformed("it ends before the last boundary")

    def _begin_part(self) -> None:
        self._headers = []
        self._sink = None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]
        self._count(end - start)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count(end - start)

    def _end_header(self) -> None:
        self._headers.append((self._field.lower(), self._value))
        self._field = self._value = b""

    def _end_headers(self) -> None:
        part = Message()
        for header, value in self._headers:
            if header in (b"content-disposition", b"content-type"):
                part[header.decode("latin-1")] = value.decode("utf-8", "replace")
        name = part.get_param("name", header="content-disposition")
        content_type = part.get_content_type() if "content-type" in part else ""
        self._sink = self._begin(
            Part(name if isinstance(name, str) else "", part.get_filename(), content_type)
        )

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._sink is not None:
            self._sink(data[start:end])
        else:
            self._count(end - start)

    def _end(self) -> None:
        self._complete = True

    def _count(self, count: int) -> None:
        self._overhead += count
        if self._overhead > FRAMING:
            raise Problem(413, "form_too_large", "The form's other fields are too large.", field="body")


def _malformed(why: str) -> Problem:
    return Problem(400, "malformed_multipart", f"The form cannot be parsed: {why}.", field="body")
