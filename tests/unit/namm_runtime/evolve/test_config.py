"""Configurations that make no sense are refused, by name."""

import pytest
from typer.testing import CliRunner

from namm_runtime.cli import app
from namm_runtime.errors import Refusal
from namm_runtime.evolve.config import EvolutionConfig

TOML = """
name = "tiny"
version = "1"
budget = 64
interval = 128
tokens = 512
questions = 2
documents = 1
population = 4
validate_every = 2
validation_documents = 2
[[stages]]
families = ["kv"]
generations = 4
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "Invalid"),
        (f'colour = "red"\n{TOML}', "colour"),
        (TOML.replace("tokens = 512", "tokens = 500"), "multiple of interval"),
        (TOML.replace('"kv"', '"kw"'), "kw"),
        (TOML.replace("population = 4", "population = 2"), "population"),
        (f'start = "here"\n{TOML}', "start"),
        (TOML.partition("[[stages]]")[0], "stages"),
        (f"threshold = 2.0\n{TOML}", "initial_bias"),
        (f"patience = -1\n{TOML}", "patience"),
        (f"sigma = 0.0\n{TOML}", "sigma"),
        (TOML.replace("budget = 64", "budget = 64.5"), "budget"),
        (TOML + "sigma = 0.0\n", "stage's sigma"),
        (TOML + "documents = 0\n", "stage's documents"),
        (f"stages = [1]\n{TOML.partition('[[stages]]')[0]}", "Stage"),
    ],
)
def test_bad_configs_are_refused(tmp_path, text, said):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(Refusal) as refusal:
        EvolutionConfig.read(path)
    assert refusal.value.code == "bad_config"
    result = CliRunner().invoke(app, ["evolve", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
    assert said in refusal.value.message
