"""What each policy keeps."""

import pytest
import torch

from namm_runtime import policies
from namm_runtime.engine.memory import Memory
from namm_runtime.errors import Refusal


def positions(memory: Memory, layer: int = 0, head: int = 0) -> list[int]:
    cache = memory.cache.layers[layer]
    return cache.positions[0, head, : int(cache.lengths[0, head])].tolist()


@pytest.mark.parametrize("name", ["streaming", "h2o", "snapkv", "l2", "keydiff", "keydiff-token", "namm"])
def test_every_policy_fills_its_budget_and_keeps_the_newest(model, make_scorer, ids, name):
    memory = Memory(model, policies.make(name, 128, make_scorer()), 128, 256)
    memory.feed(ids)
    for layer in memory.cache.layers:
        layer.check_integrity()
        assert (layer.lengths == 128).all()
        assert (layer.positions[:, :, 127] == 1279).all()


def test_requests_may_use_a_former_name():
    assert policies.make("window", 100).name == "streaming"
    assert "window" not in policies.names()


def test_streaming_keeps_sinks_and_recent(model, ids):
    memory = Memory(model, policies.make("streaming", 100), 100, 128)
    memory.feed(ids)
    assert positions(memory) == [0, 1, 2, 3, *range(1280 - 96, 1280)]


def test_h2o_keeps_half_recent_and_the_heaviest(model, ids):
    memory = Memory(model, policies.make("h2o", 100), 100, 128)
    memory.feed(ids[:, :127])
    memory.feed(ids[:, 127:128])
    kept = positions(memory)
    assert kept[-50:] == list(range(78, 128))
    # The oldest token is attended by everyone in a random model: it must be among the heavy ones.
    assert kept[0] == 0


def test_keydiff_drops_what_points_with_the_mean(model, ids):
    memory = Memory(model, policies.make("keydiff", 100), 100, 128)
    memory.feed(ids[:, :127])
    layer = memory.cache.layers[0]
    keys = torch.nn.functional.normalize(layer.keys[:, :, :127], dim=-1)
    alike = (keys * keys.mean(2, keepdim=True)).sum(-1)[0, 0].topk(10).indices.tolist()
    memory.feed(ids[:, 127:128])
    assert not set(alike) & set(positions(memory))


def test_l2_drops_the_longest_keys(model, ids):
    memory = Memory(model, policies.make("l2", 100), 100, 128)
    memory.feed(ids[:, :127])
    layer = memory.cache.layers[0]
    longest = layer.keys[0, 0, :127].norm(dim=-1).topk(27).indices.tolist()
    memory.feed(ids[:, 127:128])
    assert len(set(longest) & set(positions(memory))) <= 1  # the newest took the place of one


def test_snapkv_keeps_its_window_and_what_it_looked_at(model, ids):
    memory = Memory(model, policies.make("snapkv", 100), 100, 128)
    memory.feed(ids)
    assert positions(memory)[-32:] == list(range(1280 - 32, 1280))
    tight = Memory(model, policies.make("snapkv", 16), 16, 128)
    tight.feed(ids)
    assert positions(tight) == list(range(1280 - 16, 1280))


def test_every_name_can_be_made(make_scorer):
    for name in policies.names():
        assert policies.make(name, 128, make_scorer()).name in {name, "namm"}


def test_zero_parameters_keep_all_that_fits(model, make_scorer, ids):
    scorer = make_scorer(scale=0.0, threshold=0.0)
    memory = Memory(model, policies.make("namm", 1024, scorer), 1024, 256)
    memory.feed(ids[:, :1024])
    assert positions(memory) == list(range(1024))


def test_a_zeroed_spectrum_does_not_look_at_attention(model, make_scorer, ids):
    scorer = make_scorer(spectrum_zeroed=True, key_input=True)
    memory = Memory(model, policies.make("namm", 128, scorer), 128, 256)
    memory.feed(ids[:, :200])
    features = memory.policy.features(memory.cache.layers[0])
    assert features.shape[-1] == 26
    assert (features[..., 8:25] == 0).all()
    assert features[..., 25].std() > 0
    assert not memory.policy.observes
    assert memory.cache.layers[0].state == {}


def test_old_ages_look_alike_when_clipped(model, make_scorer, ids):
    memory = Memory(model, policies.make("namm", 512, make_scorer(recency_clip=100)), 512, 256)
    memory.feed(ids[:, :250])
    recency = memory.policy.features(memory.cache.layers[0])[0, 0, :, :8]
    assert torch.equal(recency[0], recency[149])
    assert not torch.equal(recency[149], recency[150])


def test_unknown_policies_are_refused(make_scorer):
    with pytest.raises(Refusal) as refusal:
        policies.make("lru", 128)
    assert refusal.value.code == "unknown_policy"
    with pytest.raises(Refusal) as refusal:
        policies.make("namm", 128)
    assert refusal.value.code == "scorer_required"
