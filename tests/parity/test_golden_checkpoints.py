"""The reference trainer's own files: what is deployed from them, and what that scores and keeps."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from namm_runtime.cache import BoundedLayer
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer.reference_checkpoint import import_checkpoint

PATTERN = "ckpt_ref*.pt"


@pytest.fixture
def expected(golden_dir):
    return load_file(golden_dir / "ckpt_ref_expected.safetensors")


def test_the_deployed_vector_and_statistics(golden_file, golden_dir, expected, compare):
    """The first file gives what the reference's own evaluation used, the second stage continues from it.

    Statistics are frozen after the first evaluation, so both stages carry the same ones.
    """
    scorer = import_checkpoint(golden_file)
    assert scorer.config.network.size == 4172
    mean, variance = (
        expected[f"buffer.token_embedding_0_output_{name}"].flatten() for name in ("mean", "var")
    )
    compare(
        golden_file,
        "statistics",
        torch.stack((scorer.mean, scorer.variance)),
        torch.stack((mean, variance)),
        tolerance=0,
    )
    first = golden_file.name == "ckpt_ref.pt"
    assert scorer.provenance["iteration"] == (2 if first else 4)
    best = import_checkpoint(golden_file, vector="best_member").parameters
    if first:
        compare(golden_file, "parameters", scorer.parameters, expected["params_used"], tolerance=0)
        compare(golden_file, "best member", best, expected["best_member"], tolerance=0)
    else:
        assert not torch.equal(scorer.parameters, expected["params_used"])
    assert not torch.equal(best, scorer.parameters)
    about = golden_dir / "ckpt_ref.json"
    if about.exists():
        described = json.loads(about.read_text())
        described = described if first else described["stage2"]
        statistics = described["evolution_state"]["mean"]
        assert abs(scorer.parameters.double().mean().item() - statistics["mean"]) < 1e-8
        assert scorer.provenance["validation_score"] == described["best_val_loss"]


def test_one_update(golden_dir, expected, compare):
    """From fading sums to the slots kept, with the imported scorer."""
    file = golden_dir / "ckpt_ref.pt"
    policy = Namm(import_checkpoint(file), mode="parity")
    layer = BoundedLayer(None, 512, policy.state)
    fresh = torch.zeros(1, 2, 512, 2)
    layer.update(fresh, fresh)
    layer.state["ema"][:, :, :512] = expected["ema_raw"]
    compare(file, "positions", layer.positions[:, :, :512], expected["position_ids"].long(), tolerance=0)
    compare(file, "features", policy.features(layer), expected["embedding"], tolerance=1e-5, of_largest=True)
    compare(file, "scores", policy.scores(layer), expected["scores"], tolerance=1e-5, of_largest=True)
    policy.evict(SimpleNamespace(layers=[layer]))
    kept = layer.positions[:, :, : layer.used]
    compare(file, "kept slots", kept, expected["retained_idxs"].long(), tolerance=0)
