"""Blobs: whole or not there at all."""

import os
import time
from pathlib import Path

import pytest

from store import blobs
from store.blobs import Blobs
from store.errors import NotFound
from store.settings import Settings


@pytest.fixture(params=["directory", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """A local store and a remote one."""
    where = str(tmp_path / "blobs") if request.param == "directory" else f"memory://{tmp_path.name}"
    return Blobs(where, tmp_path / "scratch")


def test_blob_comes_whole_or_not_at_all(files: Blobs) -> None:
    with files.create("a/b/c") as file:
        file.write(b"first")

    def write_half() -> None:
        with files.create("a/b/c") as file:
            file.write(b"sec")
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        write_half()
    with files.open("a/b/c") as file:
        assert file.read() == b"first"
    assert files.names("a") == ["b/c"]
    with files.local("a/b/c") as path:
        assert path.read_bytes() == b"first"


def test_missing_and_removed_blobs(files: Blobs) -> None:
    for use in (files.open, files.local):
        with pytest.raises(NotFound), use("no/such") as _:
            raise AssertionError
    files.delete("no/such")
    files.delete_folder("no")
    with files.create("x/1") as file:
        file.write(b"1")
    with files.create("x/2") as file:
        file.write(b"2")
    files.delete("x/1")
    assert not files.exists("x/1")
    files.delete_folder("x")
    assert files.names("x") == []
    files.check()


@pytest.mark.parametrize("key", ["../secret", "/etc/passwd", "a//b", "", "a/./b"])
def test_blob_keys_stay_inside(files: Blobs, key: str) -> None:
    with pytest.raises(ValueError, match="not a blob key"):
        files.exists(key)


def test_scratch_is_left_empty(files: Blobs, tmp_path: Path) -> None:
    with files.create("a") as file:
        file.write(b"1")
    with files.local("a"):
        pass
    assert list((tmp_path / "scratch").glob("*")) == []
    assert list(tmp_path.rglob("*.partial")) == []


def test_leftovers_of_killed_writers_go_after_their_time(files: Blobs, tmp_path: Path) -> None:
    with files.create("a/b") as file:
        file.write(b"1")
    local = (tmp_path / "blobs").is_dir()
    folders = [tmp_path / "scratch", *([tmp_path / "blobs" / "a"] if local else [])]
    names = [folder / name for folder in folders for name in (".old.partial", ".new.partial")]
    names += [tmp_path / "scratch" / "old.copy", tmp_path / "scratch" / "new.copy"]
    for path in names:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
        if "old" in path.name:
            os.utime(path, (time.time() - 90_000,) * 2)
    assert files.remove_leftovers(86_400) == len(names) / 2
    assert [path for path in names if path.exists()] == [path for path in names if "new" in path.name]
    assert files.exists("a/b")
    assert files.remove_leftovers(86_400) == 0


def test_blobs_of_the_settings_lie_in_the_data_directory(tmp_path: Path) -> None:
    with blobs.connect(Settings(data_dir=tmp_path)).create("a") as file:
        file.write(b"1")
    assert (tmp_path / "blobs" / "a").read_bytes() == b"1"
