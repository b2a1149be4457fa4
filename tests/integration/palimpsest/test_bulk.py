"""`palimpsest bulk`, `collection` and `template` against a real API and conductor."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from palimpsest.cli import app
from palimpsest.commands import bulk_views, folder_sync
from palimpsest_client import Client
from tests.support.bulk_bench import PROMPT, BulkBench, bulk_bench
from tests.support.standin import right_answer

FILES = ["digest.md", "documents.jsonl", "totals.json"]


@pytest.fixture
def bench(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BulkBench]:
    monkeypatch.setattr(bulk_views, "POLL_SECONDS", 0.02)
    with bulk_bench(database_url, redis_url, tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A folder here, which the service knows nothing of."""
    folder = tmp_path / "letters"
    (folder / "old").mkdir(parents=True)
    (folder / "a.txt").write_text("First. " * 20)
    (folder / "b.md").write_text("Second. " * 20)
    (folder / "old" / "c.txt").write_text("Third. " * 20)
    (folder / ".hidden.txt").write_text("Hidden.")
    return folder


def palimpsest(bench: BulkBench, *arguments: str) -> Result:
    environment = {"PALIMPSEST_URL": bench.api.url, "PALIMPSEST_API_KEY": bench.api.key, "COLUMNS": "200"}
    return CliRunner().invoke(app, arguments, env=environment)


def run(bench: BulkBench, *arguments: str) -> Result:
    """With a conductor and a worker that go on meanwhile."""
    with bench.working():
        return palimpsest(bench, *arguments)


def lines_of(folder: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]
    return {line["path"]: line for line in lines}


def test_a_folder_here_becomes_a_bundle_here(bench: BulkBench, letters: Path, tmp_path: Path) -> None:
    ended = run(
        bench, "bulk", str(letters), "--points", "1", "--question", "Who?", "--to", str(tmp_path / "out")
    )
    assert ended.exit_code == 0, ended.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    found = lines_of(tmp_path / "out")
    assert list(found) == ["a.txt", "b.md", "old/c.txt"]
    for path, line in found.items():
        text = (letters / path).read_bytes()
        assert line["summary"] == [right_answer(text, PROMPT)]
        [answer] = line["answers"]
        assert (answer["prompt"], answer["text"]) == ("Who?", right_answer(text, "Who?"))
        assert answer["guided"]
    assert "Collection 'letters': 3 uploaded, 0 unchanged, 0 removed, 0 unreadable" in ended.stderr
    assert "succeeded, 3 of 3 documents done" in ended.stderr


def test_only_what_changed_is_uploaded_and_what_vanished_is_removed(bench: BulkBench, letters: Path) -> None:
    with Client(bench.api.url, bench.api.key) as client:
        said: list[str] = []
        first = folder_sync.sync(client, letters, "letters", None, said.append)
        assert first.uploaded == ["a.txt", "b.md", "old/c.txt"]
        assert said[-1] == "3 of 3 files: old/c.txt"
        (letters / "a.txt").write_text("Changed.")
        (letters / "b.md").rename(letters / "moved.md")
        (letters / "image.png").write_bytes(b"\x89PNG")
        (letters / "old" / "c.txt").write_bytes(b"\xff\xfe")
        (letters / "empty.txt").write_text(" ")
        second = folder_sync.sync(client, letters, "letters", None, said.append)
        assert second.uploaded == ["a.txt"]
        assert second.removed == ["b.md"]
        reasons = {path: why.partition(":")[0] for path, why in second.unreadable.items()}
        assert reasons == {
            "empty.txt": "document_empty",
            "image.png": "unsupported_document",
            "old/c.txt": "document_not_text",
        }
        # A file that cannot be read now keeps the place that it had.
        held = [item["path"] for item in client.collection_documents("letters") if item["document_id"]]
        assert held == ["a.txt", "moved.md", "old/c.txt"]


def test_what_is_no_file_of_the_folder_is_left_out(bench: BulkBench, letters: Path, tmp_path: Path) -> None:
    os.mkfifo(letters / "pipe.txt")  # opening it would wait for ever
    (tmp_path / "secret.txt").write_text("Not of this folder.")
    (letters / "link.txt").symlink_to(tmp_path / "secret.txt")
    (letters / os.fsdecode(b"caf\xe9.txt")).write_text("A name of another encoding.")
    with Client(bench.api.url, bench.api.key) as client:
        synced = folder_sync.sync(client, letters, "letters", None, lambda _: None)
        assert synced.uploaded == ["a.txt", "b.md", "old/c.txt"]
        reasons = {path: why.partition(":")[0] for path, why in synced.unreadable.items()}
        assert reasons == {"link.txt": "source_away", "caf\\xe9.txt": "path_invalid"}
    # Whoever reads the bundle is told, too.
    run(bench, "bulk", str(letters), "--points", "1", "--to", str(tmp_path / "out"))
    failed = {
        path: line["error"]["code"] for path, line in lines_of(tmp_path / "out").items() if line["error"]
    }
    assert failed == reasons


def test_one_unreadable_file_does_not_stop_the_rest(bench: BulkBench, letters: Path) -> None:
    (letters / "image.png").write_bytes(b"\x89PNG")
    ended = run(bench, "bulk", str(letters), "--points", "1", "--no-digest")
    assert ended.exit_code == 1  # not everything was done
    assert "image.png is skipped: unsupported_document" in ended.stderr
    assert "3 of 4 documents done" in ended.stdout  # the digest, as there is no --to
    assert "All documents" not in ended.stdout


def test_a_collection_of_something_else_is_left_alone(
    bench: BulkBench, letters: Path, tmp_path: Path
) -> None:
    assert run(bench, "bulk", str(letters), "--detach").exit_code == 0
    other = tmp_path / "elsewhere" / "letters"
    other.mkdir(parents=True)
    (other / "z.txt").write_text("Other.")
    refused = palimpsest(bench, "bulk", str(other), "--detach")
    assert refused.exit_code == 1
    assert "none of which is in" in refused.stderr
    assert run(bench, "bulk", str(other), "--detach", "--name", "others").exit_code == 0
    palimpsest(bench, "collection", "create", "live", "--source", str(bench.source))
    refused = palimpsest(bench, "bulk", str(other), "--name", "live")
    assert (refused.exit_code, "choose another --name" in refused.stderr) == (1, True)


def test_a_place_that_the_service_reads_and_one_that_it_writes(bench: BulkBench) -> None:
    (bench.source / "a.txt").write_text("First.")
    (bench.source / "b.md").write_text("Second.")
    source, target = f"file://{bench.source}", f"file://{bench.target}"
    ended = run(bench, "bulk", source, "--glob", "*.txt", "--to", target, "--points", "1")
    assert ended.exit_code == 0, ended.output
    [made] = bench.target.iterdir()
    assert sorted(path.name for path in made.iterdir()) == FILES
    assert list(lines_of(made)) == ["a.txt"]
    again = run(bench, "bulk", source, "--glob", "*.txt", "--only-changed", "--points", "1")
    assert "0 of 0 documents done" in again.stdout
    refused = palimpsest(bench, "bulk", source, "--to", source)
    assert (refused.exit_code, "destination_not_allowed" in refused.stderr) == (1, True)
    refused = palimpsest(bench, "bulk", f"file://{bench.theirs}")
    assert (refused.exit_code, "source_not_allowed" in refused.stderr) == (1, True)


def test_bulk_jobs_are_looked_at_cancelled_tried_again_and_fetched(
    bench: BulkBench, letters: Path, tmp_path: Path
) -> None:
    (letters / "long.txt").write_text("x" * 2000)
    begun = palimpsest(bench, "bulk", str(letters), "--points", "1", "--question", "refuse-later", "--detach")
    bulk = begun.stdout.strip()
    assert re.fullmatch(r"bulk_\w{26}", bulk), begun.output
    refused = palimpsest(bench, "bulk", "fetch", bulk, "--to", str(tmp_path / "out"))
    assert (refused.exit_code, "has no bundle yet" in refused.stderr) == (1, True)
    assert palimpsest(bench, "bulk", "cancel", bulk).stdout.strip() == f"{bulk} cancelling"
    bench.end(bulk)
    retried = palimpsest(bench, "bulk", "retry", bulk)
    assert retried.stdout.strip() == f"{bulk} listing, round 2"
    watched = run(bench, "bulk", "watch", bulk, "--to", str(tmp_path / "out"))
    assert watched.exit_code == 1
    assert "long.txt: document_not_text" in watched.stderr
    assert lines_of(tmp_path / "out")["long.txt"]["state"] == "failed"
    shown = palimpsest(bench, "bulk", "show", bulk).stdout
    for words in ("3 of 4 documents done (1 failed)", "long.txt: document_not_text", "(derived)"):
        assert words in shown
    assert json.loads(palimpsest(bench, "bulk", "show", bulk, "--json").stdout)["round"] == 2
    [line] = [line for line in palimpsest(bench, "bulk", "list").stdout.splitlines() if bulk in line]
    for words in ("succeeded", "letters", "3 of 4"):
        assert words in line
    fetched = palimpsest(bench, "bulk", "fetch", bulk, "--to", str(tmp_path / "again"))
    assert fetched.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == FILES
    (tmp_path / "file").write_text("in the way")
    refused = palimpsest(bench, "bulk", "fetch", bulk, "--to", str(tmp_path / "file" / "below"))
    assert (refused.exit_code, "cannot be written" in refused.stderr) == (1, True)


def test_ctrl_c_leaves_the_bulk_job_alone(
    bench: BulkBench, letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk_views.time, "sleep", interrupted)
    left = palimpsest(bench, "bulk", str(letters), "--to", "out")
    monkeypatch.undo()
    assert left.exit_code == 130
    [bulk] = re.findall(r"palimpsest bulk watch (bulk_\w+) --to out", left.stderr)
    assert f"palimpsest bulk cancel {bulk}" in left.stderr
    assert bench.look(bulk)["state"] == "listing"


def test_collections_from_the_command_line(bench: BulkBench) -> None:
    (bench.source / "a.txt").write_text("First.")
    (bench.source / "image.png").write_bytes(b"x")
    made = palimpsest(bench, "collection", "create", "live", "--source", str(bench.source))
    assert made.stdout.startswith("col_")
    bench.conductor.round()
    [line] = [line for line in palimpsest(bench, "collection", "list").stdout.splitlines() if "live" in line]
    assert line.split() == [made.stdout.strip(), "live", "1", "1", str(bench.source)]
    shown = palimpsest(bench, "collection", "show", "live").stdout
    assert "a.txt" in shown
    assert "unsupported_document" in shown
    (bench.source / "a.txt").unlink()
    assert palimpsest(bench, "collection", "refresh", "live").exit_code == 0
    bench.conductor.round()
    assert "a.txt" in palimpsest(bench, "collection", "show", "live", "--deleted").stdout
    assert json.loads(palimpsest(bench, "collection", "show", "live", "--json").stdout)["deleted"] == 1
    assert palimpsest(bench, "collection", "delete", "live").exit_code == 0
    gone = palimpsest(bench, "collection", "show", "live")
    assert (gone.exit_code, "not_found" in gone.stderr) == (1, True)


def test_templates_from_the_command_line(bench: BulkBench, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("In {words} words.\n")
    added = palimpsest(bench, "template", "add", "mine", str(prompt))
    assert added.stdout.strip() == "mine@1"
    prompt.write_text("Point {number}:\n")
    assert (
        palimpsest(bench, "template", "add", "mine", str(prompt), "--each-point").stdout.strip() == "mine@2"
    )
    assert palimpsest(bench, "template", "show", "mine").stdout == "Point {number}:\n"
    assert palimpsest(bench, "template", "show", "mine@1").stdout == "In {words} words.\n"
    listed = palimpsest(bench, "template", "list").stdout
    for words in ("mine@1", "mine@2", "summary@1", "key-points@1", "built in", "for each point"):
        assert words in listed
    prompt.write_text("{odd}")
    refused = palimpsest(bench, "template", "add", "mine", str(prompt))
    assert (refused.exit_code, "template_invalid" in refused.stderr) == (1, True)
    assert palimpsest(bench, "template", "show", "none").exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("here", "--collection", "there"),
        ("s3://somewhere", "--name", "mine"),
        ("here", "--to", "there", "--detach"),
    ],
)
def test_what_does_not_go_together_is_told(bench: BulkBench, arguments: tuple[str, ...]) -> None:
    assert palimpsest(bench, "bulk", *arguments).exit_code == 2


def test_a_folder_that_is_not_there_is_told(bench: BulkBench, tmp_path: Path) -> None:
    refused = palimpsest(bench, "bulk", str(tmp_path / "none"))
    assert refused.exit_code == 1
    assert "There is no local folder" in refused.stderr
