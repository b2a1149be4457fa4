"""`palimpsest model` works on the service's data directory."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from namm_runtime.model import fetching
from namm_runtime.model.catalogue import MANIFEST
from palimpsest.cli import app


def palimpsest(*arguments: str, **environment: str) -> Result:
    env = {"NAMM_MODELS": None, **environment}
    return CliRunner().invoke(app, ["model", *arguments], env=env)


def test_models_are_in_the_data_directory(tmp_path: Path) -> None:
    rows = json.loads(palimpsest("list", "--json", "--data", str(tmp_path)).output)
    paths = {row["name"]: row["path"] for row in rows}
    assert paths["smollm2-135m"] == str(tmp_path / "models" / "smollm2-135m")
    rows = json.loads(palimpsest("list", "--json", PALIMPSEST_DATA_DIR=str(tmp_path)).output)
    assert {row["name"]: row["path"] for row in rows} == paths


def test_or_where_the_setting_says(tmp_path: Path) -> None:
    shown = palimpsest("list", "--json", "--data", str(tmp_path), NAMM_MODELS=str(tmp_path / "other"))
    paths = {row["name"]: row["path"] for row in json.loads(shown.output)}
    assert paths["smollm2-135m"] == str(tmp_path / "other" / "smollm2-135m")


def test_adding_and_removing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def add(name: str, models: Path, report: object) -> Path:
        asked.append((name, models))
        (models / name).mkdir(parents=True)
        return models / name

    monkeypatch.setattr(fetching, "add", add)
    assert palimpsest("add", "smollm2-135m", "--data", str(tmp_path)).exit_code == 0
    assert asked == [("smollm2-135m", tmp_path / "models")]
    (tmp_path / "models" / "smollm2-135m" / MANIFEST).write_text("{}")
    assert "removed" in palimpsest("remove", "smollm2-135m", "--data", str(tmp_path)).output
    assert not (tmp_path / "models" / "smollm2-135m").exists()
    assert palimpsest("remove", "bundled", "--data", str(tmp_path)).exit_code == 2
