"""Documents split into parts."""

import io

import pytest

from worker.bulk import text_parts


@pytest.mark.parametrize(
    "text_of", ["a b c " * 50, "x" * 301, "one\n\ntwo\n\n" * 30, "\f".join("pages") * 40]
)
def test_parts_are_the_text_but_for_blank_ones(text_of: str) -> None:
    pieces = list(text_parts.split(io.StringIO(text_of), 100))
    assert "".join(pieces) == text_of
    assert all(len(piece) <= 100 for piece in pieces)
    assert list(text_parts.split(io.StringIO(" \n" * 200), 100)) == []
    assert list(text_parts.split(io.StringIO("short"), 100)) == ["short"]
