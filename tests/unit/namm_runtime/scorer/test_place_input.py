"""A scorer that knows its layer and head serves models of any shape, whole or divided among devices."""

import torch

from namm_runtime import policies
from namm_runtime.cache import BoundedLayer, Placement
from namm_runtime.engine.memory import Memory
from namm_runtime.policies.namm import Namm


def place_of(policy: Namm, heads: int, placement: Placement) -> torch.Tensor:
    """[heads, 6] of a layer with five tokens."""
    layer = BoundedLayer(16, 16, policy.state, placement)
    keys = torch.ones(1, heads, 5, 8)
    layer.update(keys, keys)
    return policy.features(layer)[0, :, 0, -6:]


def test_layers_and_heads_have_places_of_their_own(make_scorer):
    policy = policies.make("namm", 64, make_scorer(place_input=True))
    places = torch.cat([place_of(policy, 4, Placement(layer, 6)) for layer in range(6)])
    distances = torch.cdist(places, places) + torch.eye(24)
    assert distances.min() > 0.05
    assert torch.allclose(
        place_of(policy, 1, Placement(0, 1)), torch.tensor([0.0, -1, 0, 1, 0, -1]), atol=1e-6
    )


def test_the_middle_of_any_model_is_the_same_place(make_scorer):
    policy = policies.make("namm", 64, make_scorer(place_input=True))
    three, nine = (place_of(policy, 1, Placement(n // 2, n)) for n in (3, 9))
    assert torch.allclose(three, nine, atol=1e-6)


def test_a_divided_layer_has_the_heads_of_the_whole_one(make_scorer):
    policy = policies.make("namm", 64, make_scorer(place_input=True))
    parts = [place_of(policy, 2, Placement(1, 3, shard, 2)) for shard in range(2)]
    assert torch.allclose(torch.cat(parts), place_of(policy, 4, Placement(1, 3)), atol=1e-6)


def test_the_place_decides_what_a_layer_keeps(model, ids, make_scorer):
    """Only the first place input counts, times recency: early layers keep the old, late ones the new."""
    scorer = make_scorer(scale=0.0, place_input=True)
    p = scorer.config.bam.split(scorer.parameters)
    features = scorer.config.features
    # The attention hands each token the first cosine (all tokens share it), which scales the first sine.
    p["attn.qkv.weight"][-6, 2 * scorer.config.width] = 1.0
    p["attn.out.weight"][0, features + 8 + 0] = 100.0
    p["head.weight"][8 + 0] = 1.0
    memory = Memory(model, policies.make("namm", 64, scorer), 64, 128)
    memory.feed(ids[:, :128])
    kept = [set(layer.positions[0, 0, :63].tolist()) for layer in memory.cache.layers]
    spectra = Memory(model, policies.make("namm", 64, make_scorer(scale=0.0)), 128, 128)
    spectra.feed(ids[:, :128])
    first, last = (
        layer.state["ema"][0, 0, :127, 0] for layer in (spectra.cache.layers[0], spectra.cache.layers[-1])
    )
    assert kept[0] == set(first.topk(63).indices.tolist())
    assert kept[-1] == set((-last).topk(63).indices.tolist())
