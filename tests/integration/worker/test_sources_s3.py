"""Sources, destinations and blobs behind `s3://`, against an S3 server in this process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from store.blobs import Blobs
from store.errors import NotFound, Refused
from store.sources.folders import Folder, Grant, Sources
from store.sources.listing import SourceUnavailable
from tests.support.bulk_bench import PROMPT, BulkBench, bulk_bench
from tests.support.s3 import KEY, S3, SECRET, s3_server
from tests.support.standin import right_answer

FILES = {"in/a.md": "First. " * 20, "in/b.txt": "Second. " * 20, "in/sub/c.md": "Third. " * 20}


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_server() as found:
        yield found


@pytest.fixture
def s3(server: S3) -> Iterator[S3]:
    server.client.create_bucket(Bucket="shelf")
    server.put("shelf", **FILES)
    yield server
    server.forget()


def folder(s3: S3, url: str = "s3://shelf/in", *, granted: str | None = None) -> Folder:
    allowed = Sources([Grant(granted or url, write=True, options=s3.options)])
    return allowed.folder("ten_a", url, write=True)


# Listing and reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "paths"),
    [
        (None, ["a.md", "b.txt", "sub/c.md"]),
        ("*.md", ["a.md"]),
        ("**/*.md", ["a.md", "sub/c.md"]),
        ("nothing*", []),
    ],
)
def test_objects_are_listed(s3: S3, glob: str | None, paths: list[str]) -> None:
    assert [one.path for one in folder(s3).entries(glob)] == paths
    assert [one.path for one in folder(s3, "s3://shelf").entries(f"in/{glob or '**'}")] == [
        f"in/{path}" for path in paths
    ]


def test_more_objects_than_one_answer_of_s3_holds(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    listed = s3.client.list_objects_v2(Bucket="shelf", Prefix="in/")
    assert (listed["KeyCount"], listed["IsTruncated"]) == (2, True)
    assert len(folder(s3).entries(None)) == 3


def test_the_fingerprint_is_that_of_the_content(s3: S3) -> None:
    before = {one.path: one.fingerprint for one in folder(s3).entries(None)}
    assert None not in before.values()
    s3.put("shelf", **{"in/a.md": "Changed.", "in/b.txt": FILES["in/b.txt"]})  # one with what it held
    after = {one.path: one.fingerprint for one in folder(s3).entries(None)}
    assert {path for path in before if before[path] != after[path]} == {"a.md"}


@pytest.mark.parametrize("name", ["with space.md", "ünï/é.md", "#1.md", "100%25.md", "a+b&c=d.md", "d//e.md"])
def test_odd_keys_are_read_under_their_names(s3: S3, name: str) -> None:
    s3.put("shelf", **{f"odd/{name}": f"The text of {name}."})
    found = folder(s3, "s3://shelf/odd")
    [entry] = found.entries(None)
    assert (entry.path.lstrip("/"), entry.unusable) == (name, None)
    with found.open(entry.path) as file:
        assert file.read().decode() == f"The text of {name}."


def test_markers_of_folders_are_no_documents(s3: S3) -> None:
    s3.put("shelf", **{"in/": "", "in/empty/": "", "in/sub/": ""})
    assert [one.path for one in folder(s3).entries(None)] == ["a.md", "b.txt", "sub/c.md"]
    assert folder(s3, "s3://shelf/in/empty").entries(None) == []


def test_an_object_that_changed_since_it_was_listed_is_not_read_in_part(s3: S3) -> None:
    found = folder(s3)
    found.entries(None)
    s3.put("shelf", **{"in/a.md": "Longer than it was. " * 40})
    with pytest.raises(SourceUnavailable, match="cannot be read"), found.open("a.md") as file:
        file.read()
    s3.client.delete_object(Bucket="shelf", Key="in/b.txt")
    with pytest.raises(SourceUnavailable, match="cannot be"), found.open("b.txt") as file:
        file.read()


# What may be used -------------------------------------------------------------------------------------


def test_a_grant_is_of_a_folder_and_not_of_a_beginning_of_names(s3: S3) -> None:
    s3.put("shelf", **{"input/secret.md": "secret", "in/../input/secret.md": "secret"})
    for url in ("s3://shelf/input", "s3://shelf/i", "s3://shelf", "s3://shelf/in/../input", "s3://shelfs/in"):
        with pytest.raises(Refused):
            folder(s3, url, granted="s3://shelf/in")
    assert [one.path for one in folder(s3).entries(None)] == ["a.md", "b.txt", "sub/c.md"]
    below = folder(s3, "s3://shelf/in/sub", granted="s3://shelf/in")
    assert [one.path for one in below.entries(None)] == ["c.md"]


@pytest.mark.parametrize(
    "url", ["s3://nowhere", "s3://nowhere/in", "s3://shelf/nothing", "s3://shelf/in/a.md"]
)
def test_what_is_not_there_is_said(s3: S3, url: str) -> None:
    with pytest.raises(SourceUnavailable, match="does not exist"):
        folder(s3, url).entries(None)


def test_credentials_that_nobody_knows_are_said_without_them(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("x")
    known = folder(s3)
    with s3.no_key_known():
        for what in (
            lambda: known.entries(None),
            lambda: known.put("x.md", tmp_path / "x.md"),
            lambda: _read(known, "a.md"),
        ):
            with pytest.raises(SourceUnavailable, match=r"Access Key|Forbidden") as away:
                what()
            assert SECRET not in str(away.value)
            assert KEY not in str(away.value)


def _read(found: Folder, path: str) -> bytes:
    with found.open(path) as file:
        return file.read()


def test_options_that_the_driver_does_not_know_are_said_without_secrets(s3: S3) -> None:
    allowed = Sources([Grant("s3://shelf/in", options={**s3.options, "sceret": SECRET})])
    with pytest.raises((Refused, SourceUnavailable)) as refused:
        allowed.folder("ten_a", "s3://shelf/in").entries(None)
    assert SECRET not in str(refused.value)


# Writing ----------------------------------------------------------------------------------------------


def test_a_bundle_is_put(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "digest.md").write_text("# Ünï")
    folder(s3, "s3://shelf/out").put("bulk_1/digest.md", tmp_path / "digest.md")
    assert s3.text("shelf", "out/bulk_1/digest.md") == "# Ünï"


def test_a_missing_bucket_is_not_made(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "digest.md").write_text("x")
    with pytest.raises(SourceUnavailable, match="bucket does not exist"):
        folder(s3, "s3://nowhere/out").put("bulk_1/digest.md", tmp_path / "digest.md")
    assert s3.buckets() == ["shelf"]


# A bulk job from bucket to bucket ---------------------------------------------------------------------


@pytest.fixture
def bench(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3
) -> Iterator[BulkBench]:
    options = f"{{key = '{KEY}', secret = '{SECRET}', client_kwargs = {{endpoint_url = '{s3.url}'}}}}"
    granted = (
        f"[[source]]\nurl = 's3://shelf/in'\noptions = {options}\n"
        f"[[source]]\nurl = 's3://shelf/out'\nwrite = true\noptions = {options}\n"
        f"[[source]]\nurl = 's3://nowhere'\nwrite = true\noptions = {options}\n"
    )
    s3.client.create_bucket(Bucket="blobs")
    for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET), ("ENDPOINT_URL", s3.url)):
        monkeypatch.setenv(f"AWS_{name}", value)
    place = {"granted": granted, "blob_url": "s3://blobs/palimpsest"}
    with bulk_bench(database_url, redis_url, tmp_path, monkeypatch, **place) as found:
        yield found


def test_from_a_bucket_to_a_bucket_with_the_blobs_in_a_third(bench: BulkBench, s3: S3) -> None:
    ended = bench.end(bench.begin(source="s3://shelf/in", glob="**/*.md", to="s3://shelf/out")["id"])
    assert (ended["state"], ended["delivery_error"]) == ("succeeded", None)
    assert {line["path"]: line["summary"] for line in bench.lines(ended["id"])} == {
        path: [right_answer(FILES[f"in/{path}"].encode(), PROMPT)] for path in ("a.md", "sub/c.md")
    }
    for name in ended["bundle"]:
        assert s3.text("shelf", f"out/{ended['id']}/{name}") == bench.bundle(ended["id"], name)
    s3.put("shelf", **{"in/a.md": "Changed. " * 20})
    s3.client.delete_object(Bucket="shelf", Key="in/sub/c.md")
    again = bench.end(bench.begin(source="s3://shelf/in", glob="**/*.md", only_changed=True)["id"])
    assert [line["path"] for line in bench.lines(again["id"])] == ["a.md"]
    seen = bench.client.get(f"/v1/collections/{ended['collection_id']}").json()
    assert (seen["documents"], seen["deleted"], seen["refresh_error"]) == (1, 1, None)


def test_a_refresh_reads_what_has_changed_only(bench: BulkBench, s3: S3) -> None:
    bench.client.post("/v1/collections", json={"name": "live", "source": "s3://shelf/in"})
    bench.conductor.round()
    before = _documents(bench)
    assert set(before) == {"a.md", "b.txt", "sub/c.md"}
    s3.client.delete_object(Bucket="shelf", Key="in/b.txt")
    s3.put("shelf", **{"in/a.md": "Changed.", "in/new.md": "New."})
    bench.client.post("/v1/collections/live/refresh")
    bench.conductor.round()
    after = _documents(bench)
    assert set(after) == {"a.md", "new.md", "sub/c.md"}
    assert after["a.md"] != before["a.md"]
    assert after["sub/c.md"] == before["sub/c.md"]


def _documents(bench: BulkBench) -> dict[str, str]:
    shown = bench.client.get("/v1/collections/live/documents").json()["data"]
    return {one["path"]: one["document_id"] for one in shown}


def test_a_source_that_refuses_its_key_takes_nothing_away(bench: BulkBench, s3: S3) -> None:
    bench.client.post("/v1/collections", json={"name": "live", "source": "s3://shelf/in"})
    bench.conductor.round()
    begun = bench.begin(collection="live")
    with s3.no_key_known():
        bench.conductor.round()
    ended = bench.look(begun["id"])
    assert (ended["state"], ended["error"]["code"]) == ("failed", "source_away")
    assert "Access Key" in ended["error"]["message"]
    assert set(_documents(bench)) == {"a.md", "b.txt", "sub/c.md"}
    assert SECRET not in str(ended) + bench.client.get("/v1/collections/live").text


def test_a_destination_without_a_bucket_is_said(bench: BulkBench) -> None:
    document = bench.upload("Text.")
    ended = bench.end(bench.begin(document_ids=[document], to="s3://nowhere/out")["id"])
    assert ended["state"] == "succeeded"
    assert "bucket does not exist" in ended["delivery_error"]


# Blobs ------------------------------------------------------------------------------------------------


@pytest.fixture
def two(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Blobs, Blobs]:
    """The same blobs as two processes have them."""

    def opened(url: str, **options: Any) -> Any:
        return fsspec.url_to_fs(url, **s3.options, **options, skip_instance_cache=True)

    monkeypatch.setattr(fsspec.core, "url_to_fs", opened)
    return Blobs("s3://shelf/blobs", tmp_path / "one"), Blobs("s3://shelf/blobs", tmp_path / "two")


def test_blobs_are_seen_by_other_processes(two: tuple[Blobs, Blobs], tmp_path: Path) -> None:
    one, other = two
    assert one.names("d") == []
    _write(one, "d/first", b"first")
    assert one.names("d") == other.names("d") == ["first"]
    _write(other, "d/second", b"second")
    assert one.exists("d/second")
    with one.open("d/second") as file:
        assert file.read() == b"second"
    _write(other, "d/first", b"longer than before")
    with one.local("d/first") as path:
        assert path.read_bytes() == b"longer than before"
    assert one.names("d") == ["first", "second"]
    other.delete("d/first")
    assert not one.exists("d/first")
    with pytest.raises(NotFound), one.open("d/first"):
        pass
    with pytest.raises(NotFound), one.local("d/first"):
        pass
    other.delete("d/first")
    one.check()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_folders_of_blobs_are_removed(two: tuple[Blobs, Blobs]) -> None:
    one, other = two
    for key in ("runs/old/x", "runs/old/y", "runs/older/x"):
        _write(one, key, b"x")
    assert other.folders_unwritten("runs", 3600) == []
    assert other.folders_unwritten("runs", -3600) == ["runs/old", "runs/older"]
    other.delete_folder("runs/old")
    assert one.names("runs") == ["older/x"]
    one.delete_folder("runs/old")


def _write(blobs: Blobs, key: str, body: bytes) -> None:
    with blobs.create(key) as file:
        file.write(body)
