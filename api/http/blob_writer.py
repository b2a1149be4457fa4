"""Reads and writes blobs for requests; a full disk becomes a problem."""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import IO, Self

from fastapi.concurrency import run_in_threadpool

from api.problems import Problem
from store.blobs import Blobs

_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def chunks(blobs: Blobs, key: str) -> Iterator[bytes]:
    """The content of a blob in chunks."""
    with blobs.open(key) as source:
        while chunk := source.read(_CHUNK):
            yield chunk


@contextmanager
def storing() -> Iterator[None]:
    """Turns a full disk into Problem storage_full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise Problem(507, "storage_full", "The service has no room to store this document.") from error


class BlobWriter:
    """A blob being written, with its size and hash; it appears only if the block succeeds.

    Entering and leaving run in worker threads. Raises Problem storage_full.
    """

    def __init__(self, blobs: Blobs, key: str) -> None:
        self._creating = blobs.create(key)
        self._stack = ExitStack()
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self.size = 0

    async def __aenter__(self) -> Self:
        self._file = await run_in_threadpool(self._stack.enter_context, self._creating)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_in_threadpool(self._close, kind, error, trace)

    def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with storing():
            self._stack.__exit__(kind, error, trace)

    @property
    def sha256(self) -> str:
        """Hex digest of what has been written."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Appends to the blob; blocks."""
        assert self._file is not None
        with storing():
            self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)
