"""Group mean, frames, fading, normaliser and recency over several updates with evictions between them."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from namm_runtime.attention.spectrogram import Spectrogram
from namm_runtime.cache import BoundedLayer
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig
from namm_runtime.scorer.normaliser import Moments, Normaliser
from namm_runtime.scorer.regime import Regime

PATTERN = "spectrogram_*.safetensors"


@pytest.fixture
def golden(golden_file):
    return load_file(golden_file)


def updates(golden) -> list[str]:
    found = sorted({name.split(".")[0] for name in golden if name.endswith(".attn")})
    assert len(found) > 1
    return found


def moments(golden, prefix: str) -> Moments | None:
    """The reference's buffers [1, 1, 1, 17]; absent or empty ones are None."""
    if f"{prefix}_num" not in golden or not int(golden[f"{prefix}_num"].max()):
        return None
    mean, variance = (golden[f"{prefix}_{name}"].flatten() for name in ("mean", "var"))
    return Moments(mean, variance, int(golden[f"{prefix}_num"].max()))


def policy_for(golden, mode: str) -> Namm:
    scorer = Scorer(
        "golden", "1", ScorerConfig(), torch.zeros(4172), torch.zeros(17), torch.ones(17),
        Regime("parity", None, 512, "absolute"),
    )  # fmt: skip
    normaliser = Normaliser(moments(golden, "init.output"), frozen=mode != "online")
    return Namm(scorer, mode="parity", normaliser=normaliser)


def test_group_mean(golden_file, golden, compare):
    """Equal to the last bit, in bf16 too, where the mean of a group is rounded to bf16."""
    for update in updates(golden):
        if f"{update}.attn_query_heads" in golden:
            attention = golden[f"{update}.attn"]
            grouped = golden[f"{update}.attn_query_heads"].unflatten(1, (attention.shape[1], -1))
            compare(golden_file, "group mean", grouped.mean(dim=2), attention, tolerance=0)


def test_frames(golden_file, golden, compare):
    """A spectrogram that forgets at once holds the magnitudes of its last frame."""
    spectrogram, carry = Spectrogram(gamma=0.0), torch.zeros(0)
    for update in updates(golden):
        if f"{update}.stft_mag" not in golden:
            continue
        columns, frames = golden[f"{update}.attn"].float(), golden[f"{update}.stft_mag"]
        batch, heads, _, keys = columns.shape
        old = carry if carry.numel() else torch.zeros(batch, heads, 0, 16)
        carry = torch.cat((old, torch.zeros(batch, heads, keys - old.shape[2], 16)), dim=2)
        for frame, hop in enumerate(columns.split(16, dim=2)):
            magnitude = torch.zeros(batch, heads, keys, 17)
            spectrogram.fold(hop, magnitude, carry)
            compare(golden_file, "frames", magnitude, frames[:, :, frame], tolerance=1e-5)
        kept = golden[f"{update}.retained_idxs"].long().unsqueeze(-1)
        carry = carry.gather(2, kept.expand(-1, -1, -1, 16))


def test_features(golden_file, golden, compare):
    """Fading sums, normalised spectra, recency, the normaliser's buffers, and what survives an eviction.

    Padded rows (batch 2) only exist in the reference: their places are given here, and padding is left out of
    the statistics as it is there.
    """
    with safe_open(golden_file, "pt") as file:
        meta = json.loads(file.metadata()["meta"])
    policy = policy_for(golden, meta["mode"])
    layer = BoundedLayer(None, 512, policy.state)
    for update in updates(golden):
        part = {name.split(".", 1)[1]: x for name, x in golden.items() if name.startswith(update + ".")}
        columns = part["attn"].float()
        batch, heads, _, keys = columns.shape
        fresh = torch.zeros(batch, heads, keys - layer.used if layer.is_initialized else keys, 2)
        layer.update(fresh, fresh)
        places = part["position_ids"].long()
        if part["attn_mask"].all():
            compare(golden_file, "positions", layer.positions[:, :, :keys], places, tolerance=0)
        else:
            layer.positions[:, :, :keys] = places + (layer.clock - 1 - places[..., -1:])
        policy.observe(layer, columns)
        ema = layer.state["ema"][:, :, :keys]
        compare(golden_file, "fading sums", ema, part["ema_raw"], tolerance=2e-5)
        assert torch.allclose(ema, part["ema_raw"], rtol=1e-5, atol=2e-6)
        if part["attn_mask"].all():
            features = policy.features(layer)
        else:
            counted = part["attn_mask"].bool()[:, None].expand(-1, heads, -1)
            features = torch.cat((policy._recency(layer), policy.normaliser(ema, counted)), dim=-1)
        compare(golden_file, "recency", features[..., :8], part["embedding"][..., :8], tolerance=1e-6)
        compare(golden_file, "spectra", features[..., 8:], part["spec_norm"], tolerance=1e-5, of_largest=True)
        assert torch.allclose(features, part["embedding"], rtol=1e-5, atol=5e-5)
        if meta["mode"] == "online":
            same_moments(golden_file, policy.normaliser.gathered, part, "norm.online_new_output", compare)
        scores = torch.full((batch, heads, keys), -1.0)
        scores.scatter_(2, part["retained_idxs"].long(), 1.0)
        layer.compact(scores, 0.0, rectangular=True)
        after = layer.positions[:, :, : layer.used], layer.state["ema"][:, :, : layer.used]
        if part["attn_mask"].all():
            compare(golden_file, "positions", after[0], part["retained_position_ids"].long(), tolerance=0)
        compare(golden_file, "fading sums", after[1], part["ema_buffer_after"], tolerance=2e-5)
        tail = layer.state["carry"][:, :, : layer.used]
        compare(golden_file, "history", tail, part["prev_attn_tail_after"].float(), tolerance=0)
    if moments(golden, "merged.token_embedding_0_output") is not None:
        policy.normaliser.adopt()
        assert policy.normaliser.gathered.count == 0
        same_moments(
            golden_file, policy.normaliser.in_use, golden, "merged.token_embedding_0_output", compare
        )


def same_moments(file, actual: Moments, golden, prefix: str, compare) -> None:
    expected = moments(golden, prefix)
    assert expected is not None
    assert actual.count == expected.count
    for name in ("mean", "variance"):
        ours, theirs = getattr(actual, name), getattr(expected, name)
        compare(file, f"running {name}", ours, theirs, tolerance=1e-5, of_largest=True)
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-9)
