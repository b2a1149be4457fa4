"""Controls of the quality table are what their files say."""

import pytest
import torch

from benchmarks.quality_tables import CONTROLS
from benchmarks.tables import ROOT
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.model.loading import load_model
from namm_runtime.scorer import checkpoint

FOLDER = ROOT / "benchmarks" / "controls"


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_of_its_config_and_the_bundled_model(name: str) -> None:
    provenance = checkpoint.load(FOLDER / name).provenance
    assert EvolutionConfig.from_dict(provenance["evolution"]) == EvolutionConfig.read(FOLDER / f"{name}.toml")
    assert provenance["model"]["revision"] == load_model("bundled").revision


def test_the_start_alone_is_that_of_namm_key() -> None:
    """So that the difference between the two rows is what the search added."""
    alone = checkpoint.load(FOLDER / "distilled")
    searched = checkpoint.load(checkpoint.resolve("namm-key").path)
    assert alone.provenance["validation"]["deployed"] == searched.provenance["validation"]["start"]
    assert alone.config == searched.config
    assert not torch.equal(alone.parameters, searched.parameters)


@pytest.mark.parametrize("name", ["bam-key", "namm", "namm-layer"])
def test_searches_with_other_inputs_have_as_many_evaluations(name: str) -> None:
    """So that what stands between their rows and that of namm-zero is what the inputs are worth."""
    inputs = {"name", "version", "key_input", "place_input", "spectrum_zeroed"}
    zero, other = (checkpoint.load(checkpoint.resolve(one).path).provenance for one in ("namm-zero", name))
    assert zero["candidate_documents"] == other["candidate_documents"]
    for key, value in zero["evolution"].items():
        assert key in inputs or value == other["evolution"][key], key


def test_there_are_no_other_controls() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(CONTROLS)
