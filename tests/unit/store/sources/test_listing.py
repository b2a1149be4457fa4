"""Listings of folders outside the service: all of what is there, or an error."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from store.settings import Settings
from store.sources import folders as sources
from store.sources.folders import Folder, Grant, Sources
from store.sources.listing import SourceTooLarge, SourceUnavailable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("a.txt", "sub/b.txt", "sub/deep/c.txt", ".hidden/d.txt"):
        file = tmp_path / "in" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
    return tmp_path / "in"


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, type[OSError]], None]:
    """Has the system refuse to list a folder; taking rights away does nothing to root."""

    def refuse(folder: Path, kind: type[OSError]) -> None:
        real = os.scandir

        def scandir(path: Any = ".") -> Any:
            if os.fspath(path) == str(folder):
                raise kind(13, "Not for you", str(folder))
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)

    return refuse


def opened(root: Path, most: int = 100) -> Folder:
    return Sources([Grant(str(root))], most).folder("ten_a", str(root))


@pytest.mark.parametrize("path", ["sub", "sub/deep"])
@pytest.mark.parametrize("kind", [PermissionError, OSError])
def test_a_folder_that_cannot_be_read_is_said(
    root: Path, unreadable: Callable[[Path, type[OSError]], None], path: str, kind: type[OSError]
) -> None:
    unreadable(root / path, kind)
    with pytest.raises(SourceUnavailable, match=f"The folder '{path}' cannot be read: .*Not for you"):
        opened(root).entries("*.txt")


def test_the_source_itself_may_be_that_folder(
    root: Path, unreadable: Callable[[Path, type[OSError]], None]
) -> None:
    unreadable(root, PermissionError)
    with pytest.raises(SourceUnavailable, match=r"The folder cannot be listed: .*Not for you"):
        opened(root).entries(None)


def test_a_hidden_folder_need_not_be_readable(
    root: Path, unreadable: Callable[[Path, type[OSError]], None]
) -> None:
    unreadable(root / ".hidden", PermissionError)
    assert [one.path for one in opened(root).entries("*.txt")] == ["a.txt"]


def test_a_folder_that_was_removed_meanwhile_has_no_files(
    root: Path, unreadable: Callable[[Path, type[OSError]], None]
) -> None:
    unreadable(root / "sub" / "deep", FileNotFoundError)
    assert [one.path for one in opened(root).entries(None)] == ["a.txt", "sub/b.txt"]


class Odd:
    """A driver whose folders end in slashes or lie in themselves, and whose errors are no OSError."""

    protocol = ("odd", "odder")
    folders: ClassVar = {
        "x": [("x/", "directory"), ("x/a.txt", "file"), ("x/sub/", "directory"), ("y/b.txt", "file")],
        "x/sub": [("x/sub", "directory"), ("x/sub/c.txt", "file"), ("x/sub/no/", "directory")],
        "x/sub/no": [("x/sub/no/d.txt", "file")],
    }

    def __init__(self, broken: str | None = None) -> None:
        self._broken = broken

    def invalidate_cache(self) -> None: ...

    def isdir(self, path: str) -> bool:
        return path in self.folders

    def ls(self, path: str, *, detail: bool) -> list[dict[str, Any]]:
        assert detail
        if path == self._broken:
            raise RuntimeError("odd://key:secret@host says no")
        return [{"name": name, "type": kind, "size": 1} for name, kind in self.folders[path]]


def test_any_driver_is_walked_through() -> None:
    assert [one.path for one in Folder(Odd(), "x", "x").entries(None)] == [
        "a.txt",
        "sub/c.txt",
        "sub/no/d.txt",
    ]


def test_any_error_of_any_driver_is_said_and_no_credentials() -> None:
    with pytest.raises(SourceUnavailable) as away:
        Folder(Odd("x/sub/no"), "x", "x").entries("*.txt")
    assert str(away.value) == "The folder 'sub/no' cannot be read: (a URL) says no"


def test_more_files_than_may_be_are_refused(root: Path) -> None:
    assert len(opened(root, 3).entries(None)) == 3
    with pytest.raises(SourceTooLarge, match="more than 2 files"):
        opened(root, 2).entries(None)
    assert len(opened(root, 2).entries("sub/**")) == 2  # what the glob leaves out does not count


def test_the_most_files_are_a_setting(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "sources.toml"
    file.write_text(f"[[source]]\nurl = '{root}'\n")
    known = sources.connect(Settings(sources_file=file, max_source_files=2))
    with pytest.raises(SourceTooLarge, match="PALIMPSEST_MAX_SOURCE_FILES"):
        known.folder("ten_a", str(root)).entries(None)
