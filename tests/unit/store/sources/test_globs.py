"""Globs: what they mean, what is none, and that none takes long."""

import time

import pytest

from store.sources.globs import GlobInvalid, matching


@pytest.mark.parametrize(
    ("glob", "path", "meant"),
    [
        (None, "a", True),
        (None, "a/b/c", True),
        (None, "a/.b/c", False),
        ("*", ".a", False),
        ("**", "a/b", True),
        ("**/**/*.txt", "a.txt", True),
        ("**/*.txt", "a/b/c.txt", True),
        ("**/*.txt", "a/b/c.md", False),
        ("a/**", "a", False),
        ("a/**", "a/b", True),
        ("a/**", "a/b/c", True),
        ("a/**/d", "a/d", True),
        ("a/**/d", "a/b/c/d", True),
        ("a/**/d", "a/b/c/d/e", False),
        ("**/b/**/d", "a/b/b/c/d", True),
        ("*.txt", "a/b.txt", False),
        ("[ab]?.txt", "b1.txt", True),
        ("[!ab].txt", "a.txt", False),
        ("[z-a]", "b", False),
        ("A*", "a", False),
    ],
)
def test_meaning(glob: str | None, path: str, meant: bool) -> None:
    assert matching(glob)(path) is meant


@pytest.mark.parametrize("glob", ["**.txt", "a**", "/a", "a/", "a//b", "***", "*a" * 9, "**/" * 9 + "x"])
def test_what_is_no_glob(glob: str) -> None:
    with pytest.raises(GlobInvalid):
        matching(glob)


@pytest.mark.parametrize("glob", ["**/" * 7 + "x", "**/a/" * 7 + "x", "*a" * 8, "*a" * 7 + "*b"])
def test_none_takes_long(glob: str) -> None:
    begun = time.monotonic()
    for path in ("a" * 250, "a/" * 400 + "y", "/".join(["a" * 200] * 5)):
        assert matching(glob)(path) is (glob == "*a" * 8 and "/" not in path)
    assert time.monotonic() - begun < 1
