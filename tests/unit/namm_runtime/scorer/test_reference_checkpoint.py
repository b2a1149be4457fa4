"""Checkpoints of the reference's trainer: what is taken from one, and what is refused."""

import json
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from namm_runtime.cli import app
from namm_runtime.errors import Refusal
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.reference_checkpoint import NETWORKS, import_checkpoint
from namm_runtime.scorer.regime import Regime

BUFFERS = "stored_buffers_to_save.token_embedding_0_"


def content(size: int = 4172, in_use: int = 7, gathered: int = 0, prefix: str = "") -> dict:
    """A checkpoint as the trainer writes it, without the matrices that an import ignores."""
    generator = torch.Generator().manual_seed(0)
    state = OrderedDict()
    state["sigma"] = torch.tensor(0.065)
    state["mean"] = torch.randn(size, generator=generator)
    state["best_member"] = torch.randn(size, generator=generator)
    state["C"] = torch.zeros(1, 1).expand(size, size)
    for value, (which, count) in enumerate({"output": in_use, "online_new_output": gathered}.items(), 1):
        state[f"{BUFFERS}{which}_mean"] = torch.full((1, 1, 1, 17), float(value))
        state[f"{BUFFERS}{which}_var"] = torch.full((1, 1, 1, 17), value / 4)
        state[f"{BUFFERS}{which}_num"] = torch.full((1, 1, 1, 17), count)
    state = OrderedDict((prefix + name, tensor) for name, tensor in state.items())
    return {"evolution_state": state, "iter_num": 12, "best_val_loss": np.float64(0.25)}


def saved(tmp_path, top):
    torch.save(top, tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


def refused(path, **settings) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        import_checkpoint(path, **settings)
    assert len(refusal.value.message.split()) > 4
    return refusal.value


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_the_mean_and_the_normaliser_in_use_are_taken(tmp_path, prefix):
    top = content(gathered=9, prefix=prefix)
    path = saved(tmp_path, top)
    scorer = import_checkpoint(path, cap=1024)
    assert torch.equal(scorer.parameters, top["evolution_state"][prefix + "mean"])
    assert (scorer.mean == 1).all()
    assert (scorer.variance == 0.25).all()
    assert scorer.config == checkpoint.ScorerConfig()
    assert scorer.regime == Regime("parity", 1024, 512, "absolute")
    assert scorer.provenance["iteration"] == 12
    assert scorer.provenance["validation_score"] == 0.25
    assert scorer.provenance["vector"] == "mean"
    assert len(scorer.provenance["source"]["sha256"]) == 64
    best = import_checkpoint(path, vector="best_member")
    assert torch.equal(best.parameters, top["evolution_state"][prefix + "best_member"])


def test_normalisers_not_yet_in_use_and_empty_ones(tmp_path):
    scorer = import_checkpoint(saved(tmp_path, content(in_use=0, gathered=9)))
    assert (scorer.mean == 2).all()
    assert scorer.provenance["normaliser"].startswith("online_new_output")
    scorer = import_checkpoint(saved(tmp_path, content(in_use=0)))
    assert (scorer.mean == 0).all()
    assert (scorer.deviation == 1).all()


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: str(config.network.size))
def test_the_length_tells_the_network(tmp_path, config):
    scorer = import_checkpoint(saved(tmp_path, content(config.network.size)))
    assert scorer.config == config


def test_lengths_are_unambiguous():
    sizes = [config.network.size for config in NETWORKS]
    assert len(set(sizes)) == len(sizes)
    assert {4172, 4026, 2124, 2026, 3347, 26, 676, 433, 1326} <= set(sizes)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch owned",)


class HostileType:
    """Asks numpy for an array of objects through the names that are allowed for the scalar."""

    def __reduce__(self):
        return np.dtype, ("O", False, True)


@pytest.mark.parametrize("payload", [Hostile(), HostileType(), np.float32(1), np.zeros(3), print])
@pytest.mark.parametrize("where", ["iter_num", "evolution_state"])
def test_pickles_that_want_more_than_tensors_are_refused(tmp_path, monkeypatch, payload, where):
    monkeypatch.chdir(tmp_path)
    refusal = refused(saved(tmp_path, content() | {where: payload}))
    assert refusal.code == "checkpoint_unsafe"
    assert "weights_only" not in refusal.message, "torch advises to open it all the same"
    assert "safe_globals" not in refusal.message
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("payload", "wanted"), [(Hostile(), "'posix.system'"), (print, "print'"), (np.zeros(3), "_reconstruct'")]
)
def test_the_refusal_names_what_the_pickle_asks_for(tmp_path, payload, wanted):
    assert wanted in refused(saved(tmp_path, content() | {"iter_num": payload})).message


def test_plain_pickles_and_compressed_archives_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Hostile()))
    assert refused(tmp_path / "plain.pt").code == "checkpoint_unreadable"
    torch.save(content(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert refused(tmp_path / "old.pt").code == "checkpoint_unreadable"
    with (
        zipfile.ZipFile(saved(tmp_path, content())) as stored,
        zipfile.ZipFile(tmp_path / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for member in stored.infolist():
            deflated.writestr(member.filename, stored.read(member))
    assert refused(tmp_path / "deflated.pt").code == "checkpoint_unreadable"
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.1, 0.5, 0.99, 0.9999])
def test_truncated_files_are_refused(tmp_path, keep):
    path = saved(tmp_path, content())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert refused(path).code == "checkpoint_unreadable"


def test_missing_and_oversized_files_are_refused(tmp_path):
    assert refused(tmp_path / "nowhere.pt").code == "checkpoint_unreadable"
    with (tmp_path / "huge.pt").open("wb") as file:
        file.truncate((1 << 30) + 1)
    assert refused(tmp_path / "huge.pt").code == "checkpoint_unreadable"


def change(name: str, value: object) -> dict:
    top = content()
    if value is None:
        del top["evolution_state"][name]
    else:
        top["evolution_state"][name] = value
    return top


DAMAGES = {
    "not a dictionary": ([1, 2], "checkpoint_unreadable"),
    "no state": ({"iter_num": 1}, "checkpoint_unreadable"),
    "state of another type": (content() | {"evolution_state": torch.zeros(3)}, "checkpoint_unreadable"),
    "no mean": (change("mean", None), "checkpoint_wrong_shape"),
    "mean of another length": (change("mean", torch.zeros(4171)), "checkpoint_wrong_shape"),
    "mean of another rank": (change("mean", torch.zeros(1, 4172)), "checkpoint_wrong_shape"),
    "mean that claims terabytes": (
        change("mean", torch.zeros(1).expand(1 << 40)),
        "checkpoint_wrong_shape",
    ),
    "mean is a list": (change("mean", [0.0] * 4172), "checkpoint_wrong_shape"),
    "nan in the mean": (change("mean", torch.full((4172,), float("nan"))), "checkpoint_not_finite"),
    "infinite variance": (
        change(BUFFERS + "output_var", torch.full((1, 1, 1, 17), float("inf"))),
        "checkpoint_not_finite",
    ),
    "negative variance": (
        change(BUFFERS + "output_var", -torch.ones(1, 1, 1, 17)),
        "checkpoint_not_finite",
    ),
    "too few bins": (change(BUFFERS + "output_mean", torch.zeros(1, 1, 1, 9)), "checkpoint_wrong_shape"),
    "no normaliser": (change(BUFFERS + "output_num", None), "checkpoint_wrong_shape"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_wrong_content_is_refused(tmp_path, damage):
    top, code = DAMAGES[damage]
    assert refused(saved(tmp_path, top)).code == code


def test_other_vectors_and_caps_are_refused(tmp_path):
    path = saved(tmp_path, content())
    assert refused(path, vector="x").code == "bad_request"
    assert refused(path, cap=0).code == "bad_request"


def test_the_command_writes_a_scorer_that_inspect_verifies(tmp_path):
    runner, path = CliRunner(), saved(tmp_path, content())
    out = tmp_path / "scorer"
    result = runner.invoke(app, ["import", str(path), "--out", str(out), "--name", "mine", "--cap", "256"])
    assert result.exit_code == 0, result.output
    scorer = checkpoint.load(out)
    assert scorer.name == "mine"
    assert scorer.regime.budget == 256
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["provenance"]["source"]["file"] == "ckpt.pt"
    assert runner.invoke(app, ["inspect", str(out)]).exit_code == 0
    best = runner.invoke(app, ["import", str(path), "--out", str(tmp_path / "b"), "--best-member"])
    assert best.exit_code == 0
    assert checkpoint.load(tmp_path / "b").provenance["vector"] == "best_member"


def test_the_command_refuses_with_a_sentence(tmp_path):
    path = saved(tmp_path, content() | {"iter_num": Hostile()})
    result = CliRunner().invoke(app, ["import", str(path), "--out", str(tmp_path / "scorer")])
    assert result.exit_code == 2
    assert "checkpoint_unsafe" in result.stderr
    assert "posix.system" in result.stderr
    assert not (tmp_path / "scorer").exists()
    (tmp_path / "file").touch()
    taken = CliRunner().invoke(
        app, ["import", str(saved(tmp_path, content())), "--out", str(tmp_path / "file")]
    )
    assert taken.exit_code == 2
    assert "not_writable" in taken.stderr
