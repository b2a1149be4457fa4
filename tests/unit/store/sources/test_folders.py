"""Folders outside the service: what may be used, what is listed, what leads out."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from store.errors import Refused
from store.settings import Settings
from store.sources import folders
from store.sources.folders import Grant, Sources, SourcesBroken
from store.sources.listing import MAX_PATH_BYTES, SourceUnavailable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt", ".hidden.txt", ".git/config"):
        file = tmp_path / "granted" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
        os.utime(file, (1_000_000, 1_000_000))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    return tmp_path / "granted"


def allowed(root: Path, **grant: Any) -> Sources:
    return Sources([Grant(str(root), **grant)])


@pytest.mark.parametrize(
    ("glob", "paths"),
    [
        (None, ["a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt"]),
        ("*.txt", ["a.txt"]),
        ("**/*.txt", ["a.txt", "sub/c.txt", "sub/deep/d.txt"]),
        ("sub/*", ["sub/c.txt"]),
        ("nothing*", []),
    ],
)
def test_files_are_listed_in_order_without_hidden_ones(
    root: Path, glob: str | None, paths: list[str]
) -> None:
    assert [one.path for one in allowed(root).folder("ten_a", str(root)).entries(glob)] == paths


def test_a_fingerprint_changes_with_the_file(root: Path) -> None:
    folder = allowed(root).folder("ten_a", str(root))
    before = {one.path: one.fingerprint for one in folder.entries(None)}
    assert before == {one.path: one.fingerprint for one in folder.entries(None)}
    (root / "a.txt").write_text("other")
    os.utime(root / "a.txt", (1_000_001, 1_000_001))
    after = {one.path: one.fingerprint for one in folder.entries(None)}
    assert {path for path in before if before[path] != after[path]} == {"a.txt"}


def test_a_file_written_just_now_has_no_fingerprint(root: Path) -> None:
    (root / "a.txt").write_text("new")
    entries = allowed(root).folder("ten_a", str(root)).entries("a.txt")
    assert [one.fingerprint for one in entries] == [None]


@pytest.mark.parametrize("below", ["", "/sub", "/sub/deep", "/"])
def test_a_granted_folder_and_what_is_below_may_be_read(root: Path, below: str) -> None:
    with allowed(root).folder("ten_a", f"{root}{below}").open(_first(root, below)) as file:
        assert file.read()


def _first(root: Path, below: str) -> str:
    return next(one.name for one in sorted(Path(f"{root}{below}").iterdir()) if one.is_file())


@pytest.mark.parametrize(
    "other", ["/..", "/../outside", "2", "/sub/../../outside", "::file:///etc", "?x=1", "#x"]
)
def test_what_lies_elsewhere_may_not(root: Path, other: str) -> None:
    with pytest.raises(Refused):
        allowed(root).folder("ten_a", f"{root}{other}")


@pytest.mark.parametrize(
    "url", ["/etc", "file:///etc", "memory://x", "http://127.0.0.1/x", "nonsense://x", "s3://key:pw@bucket/x"]
)
def test_nothing_is_allowed_that_is_not_granted(root: Path, url: str) -> None:
    for known in (allowed(root), Sources([])):
        with pytest.raises(Refused) as refused:
            known.folder("ten_a", url)
        assert refused.value.code in ("source_not_allowed", "source_invalid")


def test_credentials_in_a_url_are_refused_and_not_repeated(root: Path) -> None:
    with pytest.raises(Refused) as refused:
        allowed(root).folder("ten_a", "s3://AKIA:hunter2@bucket/x")
    assert "hunter2" not in str(refused.value)


def test_links_do_not_lead_out(root: Path) -> None:
    (root / "link.txt").symlink_to(root.parent / "outside" / "secret.txt")
    (root / "dir").symlink_to(root.parent / "outside")
    folder = allowed(root).folder("ten_a", str(root))
    for path in ("link.txt", "dir/secret.txt", "../outside/secret.txt"):
        with pytest.raises(SourceUnavailable), folder.open(path):
            pass
    with pytest.raises(Refused):
        allowed(root).folder("ten_a", f"{root}/dir")
    with pytest.raises(SourceUnavailable):
        folder.put("dir/x.txt", root / "a.txt")


def test_grants_are_for_their_tenants_and_uses(root: Path) -> None:
    known = allowed(root, tenants=("ten_a",))
    known.folder("ten_a", str(root))
    with pytest.raises(Refused):
        known.folder("ten_b", str(root))
    with pytest.raises(Refused) as refused:
        known.folder("ten_a", str(root), write=True)
    assert refused.value.code == "destination_not_allowed"
    allowed(root, write=True).folder("ten_a", str(root), write=True).put("new/x.txt", root / "a.txt")
    assert (root / "new" / "x.txt").read_text() == "a.txt"
    assert not list(root.rglob("*.partial"))


def test_a_folder_that_is_gone_is_away(root: Path) -> None:
    with pytest.raises(SourceUnavailable):
        allowed(root).folder("ten_a", f"{root}/nowhere").entries(None)
    with pytest.raises(SourceUnavailable), allowed(root).folder("ten_a", str(root)).open("nowhere.txt"):
        pass


def test_another_file_system_is_used_alike() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/in/a.txt", b"remote")
    known = Sources([Grant("memory://bucket", write=True)])
    folder = known.folder("ten_a", "memory://bucket/in")
    assert [one.path for one in folder.entries(None)] == ["a.txt"]
    with folder.open("a.txt") as file:
        assert file.read() == b"remote"
    with pytest.raises(Refused):
        known.folder("ten_a", "memory://bucket2/in")


def test_the_sources_file(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "sources.toml"
    file.write_text(f'[[source]]\nurl = "{root}"\ntenants = ["ten_a"]\noptions = {{auto_mkdir = true}}\n')
    known = folders.connect(Settings(sources_file=file))
    assert known.folder("ten_a", str(root)).entries("a.txt")
    assert folders.connect(Settings(sources_file=None)).__class__ is Sources


@pytest.mark.parametrize(
    "content",
    [
        "[[source",
        "[[source]]\n",
        '[[source]]\nurl = "s3://key:hunter2@x"\n',
        '[[source]]\nurl = "x"\nsecret = "hunter2"\n',
    ],
)
def test_a_broken_sources_file_is_said_without_what_is_in_it(tmp_path: Path, content: str) -> None:
    file = tmp_path / "sources.toml"
    file.write_text(content)
    with pytest.raises(SourcesBroken) as broken:
        folders.connect(Settings(sources_file=file))
    assert "hunter2" not in str(broken.value)
    assert broken.value.__cause__ is None


def test_secrets_are_not_in_a_grants_repr() -> None:
    assert "hunter2" not in repr(Grant("s3://x", options={"secret": "hunter2"}))


@pytest.mark.parametrize(
    "url",
    [
        "sftp://10.0.0.1/x",
        "ftp://10.0.0.1/x",
        "http://evil.example/docs",
        "http://files.example.evil.example/docs",
        "http://files.example:81/docs",
        "http://files.example/docs2",
        "http://files.example/docs/%2e%2e/secret",
        "http://files.example/docs/%2E./secret",
        "http://files.example/docs\\\\..\\\\secret",
        "https://files.example/docs",
        "ftp://other.example/docs",
        "file://files.example/docs",
        "github://x",
    ],
)
def test_nothing_is_opened_before_it_is_found_granted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("a driver was started")

    monkeypatch.setattr(fsspec.core, "url_to_fs", opened)
    monkeypatch.setattr(fsspec, "filesystem", opened)
    known = Sources([Grant("http://files.example/docs"), Grant("ftp://files.example/docs"), Grant("/docs")])
    with pytest.raises(Refused) as refused:
        known.folder("ten_a", url)
    assert refused.value.code in ("source_not_allowed", "source_invalid")


def test_only_the_grants_own_url_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def opened(url: str, **options: Any) -> tuple[Any, str]:
        seen.append((url, options))
        return fsspec.filesystem("memory"), "http://files.example/docs"

    monkeypatch.setattr(fsspec.core, "url_to_fs", opened)
    known = Sources([Grant("http://files.example/docs", options={"block_size": 0})])
    for url in ("http://files.example/docs/a/b", "HTTP://files.example/docs/a/b/"):
        assert known.folder("ten_a", url).root == "http://files.example/docs/a/b"
    assert seen == [("http://files.example/docs", {"block_size": 0})] * 2


def test_a_driver_that_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise OSError("ftp://key:hunter2@files.example does not answer")

    monkeypatch.setattr(fsspec.core, "url_to_fs", opened)
    with pytest.raises(Refused) as refused:
        Sources([Grant("ftp://files.example")]).folder("ten_a", "ftp://files.example/x")
    assert refused.value.code == "source_invalid"
    assert "hunter2" not in str(refused.value)


def test_a_bare_path_and_a_file_url_are_the_same(root: Path) -> None:
    for granted, url in ((f"file://{root}", f"{root}/sub"), (str(root), f"file://{root}/sub")):
        folder = Sources([Grant(granted)]).folder("ten_a", url)
        assert [one.path for one in folder.entries("*")] == ["c.txt"]


def test_a_stored_glob_that_is_none_is_said(root: Path) -> None:
    with pytest.raises(SourceUnavailable, match="stand alone"):
        allowed(root).folder("ten_a", str(root)).entries("**.txt")


def test_what_is_no_regular_file_is_left_out_or_said(root: Path) -> None:
    os.mkfifo(root / "pipe.txt")
    (root / "to-pipe.txt").symlink_to(root / "pipe.txt")
    (root / "to-a.txt").symlink_to(root / "a.txt")
    folder = allowed(root).folder("ten_a", str(root))
    entries = {one.path: one for one in folder.entries("*.txt")}
    assert list(entries) == ["a.txt", "to-a.txt", "to-pipe.txt"]
    assert entries["to-a.txt"].fingerprint is None  # the link's own time says nothing
    with folder.open("to-a.txt") as file:
        assert file.read() == b"a.txt"
    for path in ("pipe.txt", "to-pipe.txt"):
        with pytest.raises(SourceUnavailable), folder.open(path):
            pass


def test_names_that_no_document_can_have_are_said(root: Path) -> None:
    (root / os.fsdecode(b"bad\xff.txt")).write_text("x")
    deep = root / "long" / ("d" * 250) / ("e" * 250) / ("f" * 250)
    deep.mkdir(parents=True)
    (deep / ("g" * 246 + ".txt")).write_text("x")
    found = {
        one.path: one.unusable
        for one in allowed(root).folder("ten_a", str(root)).entries("**/*")
        if one.unusable
    }
    assert sorted(found.values()) == [
        "The file name is not UTF-8 text.",
        "The path is longer than 1,000 bytes.",
    ]
    assert "bad\\xff.txt" in found
    assert all(len(path.encode()) <= MAX_PATH_BYTES for path in found)


class Failing:
    """What some drivers raise is no OSError."""

    protocol = "odd"

    def invalidate_cache(self) -> None:
        raise RuntimeError("expired")

    def open(self, *_: Any) -> Any:
        return self

    def read(self, _: int) -> bytes:
        raise RuntimeError("gone")

    def close(self) -> None:
        raise RuntimeError("gone")


def test_whatever_a_driver_raises_is_the_sources_fault_and_nothing_else() -> None:
    folder = folders.Folder(Failing(), "x", "x")
    with pytest.raises(SourceUnavailable):
        folder.entries(None)
    with pytest.raises(SourceUnavailable), folder.open("a.txt") as file:
        file.read()
    with pytest.raises(OSError, match="disk"), folder.open("a.txt"):
        raise OSError("the disk of whoever reads is full")
