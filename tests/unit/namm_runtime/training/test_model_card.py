"""The model card shows the recorded figures and how the model was trained."""

import json
from pathlib import Path

import pytest

from namm_runtime.bundled import MODEL_DIR, MODELS
from namm_runtime.tasks.families import FAMILIES
from namm_runtime.training.model_card import write_card


@pytest.mark.parametrize("name", MODELS)
def test_the_card_shows_the_recorded_figures(tmp_path: Path, name: str) -> None:
    folder = MODELS[name]
    record = json.loads((folder / "training.json").read_text())
    assert {cell["family"] for cell in record["evaluation"]} == set(FAMILIES)
    assert (folder / "training.svg").read_text().startswith("<?xml")
    write_card(tmp_path, record)
    assert (tmp_path / "README.md").read_text() == (folder / "README.md").read_text()
    record["evaluation"][0]["right"] += 1
    write_card(tmp_path, record)
    assert (tmp_path / "README.md").read_text() != (folder / "README.md").read_text()


def test_a_card_says_what_it_was_trained_on(tmp_path: Path) -> None:
    record = json.loads((MODEL_DIR / "training.json").read_text())
    write_card(tmp_path, record | {"devices": ["Some GPU", "cpu"], "tokens": [9, 1]})
    card = (tmp_path / "README.md").read_text()
    assert "--tokens 9 --device cuda\n" in card
    assert "--tokens 1 --start DIR1\n" in card
    assert "one Some GPU and then 1 thread of a CPU" in card
    assert "no two runs end" in card
    write_card(tmp_path, record | {"devices": ["cpu", "cpu"], "tokens": [9, 1]})
    assert "with 1 thread of a CPU." in (tmp_path / "README.md").read_text()
    write_card(tmp_path, record | {"devices": ["cpu"]})
    assert "The same Python and torch give the same weights." in (tmp_path / "README.md").read_text()
