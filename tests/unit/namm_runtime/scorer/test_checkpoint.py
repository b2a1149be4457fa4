"""Scorers on disk: what goes in comes out, and anything damaged is refused with its own code."""

import json
from dataclasses import fields

import pytest
import torch
from safetensors.torch import load_file, save_file

from namm_runtime.errors import Refusal
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig


@pytest.fixture
def saved(tmp_path, make_scorer):
    make_scorer(key_input=True, recency_clip=4096).save(tmp_path / "s")
    return tmp_path / "s"


def rewrite(directory, change):
    """Change the tensors and keep the manifest's hash right, so that only the content is wrong."""
    import hashlib

    tensors = load_file(directory / "scorer.safetensors")
    change(tensors)
    save_file(tensors, directory / "scorer.safetensors")
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["sha256"] = hashlib.sha256((directory / "scorer.safetensors").read_bytes()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_round_trip(saved, make_scorer):
    original, loaded = make_scorer(key_input=True, recency_clip=4096), checkpoint.load(saved)
    assert torch.equal(loaded.parameters, original.parameters)
    assert torch.equal(loaded.mean, original.mean)
    assert loaded.config == original.config
    assert loaded.regime == original.regime
    assert len(loaded.sha256) == 64


DAMAGES = {
    "scorer_hash_mismatch": lambda d: (d / "scorer.safetensors").open("ab").write(b"\0"),
    "scorer_unreadable": lambda d: (d / "manifest.json").write_text("{"),
    "scorer_wrong_shape": lambda d: rewrite(d, lambda t: t.update(parameters=torch.zeros(4171))),
    "scorer_not_finite": lambda d: rewrite(d, lambda t: t["mean"].fill_(float("nan"))),
}


@pytest.mark.parametrize("code", DAMAGES)
def test_damage_is_refused(saved, code):
    DAMAGES[code](saved)
    with pytest.raises(Refusal) as refusal:
        checkpoint.load(saved)
    # An appended byte makes the file invalid safetensors before its hash is even looked at.
    assert refusal.value.code in {code, "scorer_unreadable"}


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_truncated_files_are_refused(saved, keep):
    file = saved / "scorer.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(Refusal) as refusal:
        checkpoint.load(saved)
    assert refusal.value.code == "scorer_unreadable"


def test_missing_and_foreign_manifests_are_refused(saved, tmp_path):
    for text in (
        "[]",
        '{"format": 1}',
        json.dumps(json.loads((saved / "manifest.json").read_text()) | {"format": 9}),
    ):
        (saved / "manifest.json").write_text(text)
        with pytest.raises(Refusal) as refusal:
            checkpoint.load(saved)
        assert refusal.value.code == "scorer_unreadable"
    with pytest.raises(Refusal):
        checkpoint.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("config", None, [1]),
        ("regime", None, None),
        ("serving", None, "512"),
        ("provenance", None, []),
        ("name", None, 3),
        ("config", "gamma", "0.99"),
        ("config", "gamma", float("nan")),
        ("config", "gamma", 1.5),
        ("config", "width", -1),
        ("config", "recency_floats", 7),
        ("config", "recency_clip", "8192"),
        ("config", "threshold", True),
        ("config", "key_deviation", 0),
        ("config", "frame", 64),
        ("config", "hop", 32),
        ("config", "window", "rectangular"),
        ("config", "depths", 2),
        ("regime", "mode", "best"),
        ("regime", "positions", "auto"),
        ("regime", "interval", 100),
        ("regime", "budget", -4),
        ("serving", "interval", 8.5),
    ],
)
def test_entries_that_mean_nothing_are_refused_by_name(saved, section, name, value):
    manifest = json.loads((saved / "manifest.json").read_text())
    if name is None:
        manifest[section] = value
    else:
        manifest[section][name] = value
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Refusal) as refusal:
        checkpoint.load(saved)
    assert refusal.value.code == "scorer_unreadable"
    assert (name or section) in refusal.value.message


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("parameters", torch.zeros(4335).double(), "scorer_wrong_shape"),
        ("mean", torch.zeros(17).int(), "scorer_wrong_shape"),
        ("variance", -torch.ones(17), "scorer_not_finite"),
    ],
)
def test_tensors_of_another_kind_are_refused(saved, name, value, code):
    assert checkpoint.load(saved).parameters.shape == (4335,)
    rewrite(saved, lambda tensors: tensors.update({name: value}))
    with pytest.raises(Refusal) as refusal:
        checkpoint.load(saved)
    assert refusal.value.code == code


def test_a_manifest_names_every_hyper_parameter(saved):
    config = json.loads((saved / "manifest.json").read_text())["config"]
    assert config.keys() == {field.name for field in fields(ScorerConfig)}
    assert (config["frame"], config["hop"], config["window"]) == (32, 16, "hann")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(Refusal) as refusal:
        checkpoint.resolve("nobody@7")
    assert refusal.value.code == "unknown_scorer"


@pytest.mark.parametrize("settings", [{"kind": "mlp", "width": 25, "depth": 2}, {"multiply": False}])
def test_other_networks_round_trip(tmp_path, settings):
    config = ScorerConfig(**settings)
    parameters = torch.randn(config.network.size)
    scorer = Scorer("other", "1", config, parameters, torch.zeros(17), torch.ones(17))
    scorer.save(tmp_path)
    loaded = checkpoint.load(tmp_path)
    assert loaded.config == config
    assert torch.equal(loaded.parameters, parameters)


def test_manifests_from_before_there_were_other_networks_are_read(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    for name in ("kind", "multiply", "bias", "depth", "residual"):
        del manifest["config"][name]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint.load(saved).config.kind == "bam"


def test_unknown_networks_are_refused(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["config"]["kind"] = "oracle"
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Refusal) as refusal:
        checkpoint.load(saved)
    assert refusal.value.code == "scorer_unreadable"
