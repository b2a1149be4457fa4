"""A file is replaced as a whole, or stays as it was."""

import pytest

from namm_runtime.atomic_file import replacing, write_text


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "file.json"
    for text in ("old", "new"):
        write_text(path, text)
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_contents(tmp_path):
    path = tmp_path / "file.json"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_text("half of the n")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_contents_until_the_end(tmp_path):
    path = tmp_path / "file.json"
    write_text(path, "old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
