"""Files and directories that appear whole or not at all."""

from pathlib import Path

import pytest

from store.atomic_files import LEFTOVERS, atomic_directory, atomic_file, write_text


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with atomic_file(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert list(tmp_path.glob(LEFTOVERS)) == [temporary]
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("durable", [True, False])
def test_a_block_that_raises_changes_nothing(tmp_path: Path, durable: bool) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write() -> None:
        with atomic_file(target, durable=durable) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    with atomic_directory(target) as temporary:
        (temporary / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_of_two_directories_the_first_stays(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    with atomic_directory(target) as slow:
        (slow / "a").write_text("slow")
        with atomic_directory(target) as quick:
            (quick / "a").write_text("quick")
    assert (target / "a").read_text() == "quick"
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_that_cannot_take_its_name_raises(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    target.write_text("a file")

    def write() -> None:
        with atomic_directory(target) as temporary:
            (temporary / "a").write_text("1")

    with pytest.raises(NotADirectoryError):
        write()
    assert list(tmp_path.iterdir()) == [target]


def test_text_is_private_from_the_first_byte(tmp_path: Path) -> None:
    target = tmp_path / "secret"
    write_text(target, "é", mode=0o600)
    assert target.read_bytes() == "é".encode()
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_fixed_temporary_name_takes_the_place_of_a_leftover(tmp_path: Path) -> None:
    target, temporary = tmp_path / "a.txt", tmp_path / "a.txt.partial"
    temporary.write_text("what a killed writer left")
    with atomic_file(target, temporary=temporary) as path:
        assert path == temporary
        path.write_text("whole")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "whole"


def test_text_takes_the_place_of_what_a_killed_writer_left(tmp_path: Path) -> None:
    (tmp_path / ".key.partial").write_text("pal_half")
    write_text(tmp_path / "key", "whole", mode=0o600)
    assert [file.name for file in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
