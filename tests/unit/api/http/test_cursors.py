"""Pages of lists and the cursors between them."""

from typing import get_args

import pytest

from api.http.cursors import Cursor, Pager
from api.problems import Problem

PAGER = Pager(b"secret", "letters of ten_a")


def page(rows: list[str]) -> tuple[list[str], str | None]:
    return PAGER.cut(rows, 2, lambda row: [row])


def test_a_cursor_leads_to_the_next_page() -> None:
    first, cursor = page(["a", "b", "c"])
    assert (first, PAGER.key(cursor)) == (["a", "b"], "b")
    assert page(["c", "d"]) == (["c", "d"], None)
    assert PAGER.place(None) is None
    assert PAGER.place("") is None


@pytest.mark.parametrize("other", [Pager(b"secret", "letters of ten_b"), Pager(b"other", PAGER.query)])
def test_a_cursor_is_of_one_query(other: Pager) -> None:
    _, cursor = page(["a", "b", "c"])
    for wrong in (cursor, "x", "ä"):
        with pytest.raises(Problem) as refused:
            other.place(wrong)
        assert (refused.value.status_code, refused.value.code) == (422, "invalid_cursor")


@pytest.mark.parametrize("character", ["\x01", "ä", "𝄞", "\\"])
def test_the_longest_path_fits_a_cursor(character: str) -> None:
    path = character * (1000 // len(character.encode()))
    _, cursor = page(["", path, ""])
    assert PAGER.key(cursor) == path
    longest = next(rule.max_length for rule in get_args(Cursor)[1].metadata if hasattr(rule, "max_length"))
    assert len(cursor or "") <= longest
