"""What reading allocates beside the cache and the model, measured at the allocator.

Buffers that are kept for the next block are dropped first, so that they count as well.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaForCausalLM

from namm_runtime import policies
from namm_runtime.attention import bounded, workspace
from namm_runtime.attention.bounded import TILE_BYTES, bounded_attention
from namm_runtime.attention.context import Context
from namm_runtime.cache import BoundedCache
from namm_runtime.engine.memory import Memory
from namm_runtime.policies import namm
from namm_runtime.policies.namm import SCORE_BYTES, Namm

SLOTS, QUERIES, HEADS, KV_HEADS, WIDTH = 512, 512, 4, 2, 16


def peak(work: Callable[[], object]) -> int:
    """Most bytes that `work` held at once, of what it allocated."""
    workspace._BUFFERS.named.clear()
    work()  # tables and other things that are made once
    workspace._BUFFERS.named.clear()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        work()
    memory = [event for event in events.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(memory, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def a_layer(model, make_scorer, batch: int, tokens: int = QUERIES) -> tuple[Callable, Callable, BoundedCache]:
    """Attention of one layer's newest tokens, its policy's scores, and the cache they are about."""
    policy = Namm(make_scorer())
    cache = BoundedCache(1, SLOTS, QUERIES, policy.state)
    layer = cache.layers[0]
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(2, batch, KV_HEADS, SLOTS + QUERIES, WIDTH, generator=generator)
    layer.update(*tensors[:, :, :, :QUERIES])
    policy.evict(cache)
    layer.update(*tensors[:, :, :, QUERIES:])
    query = torch.randn(batch, HEADS, tokens, WIDTH, generator=generator)
    context = Context(cache, policy, model.rotation, by_slot=True)

    def attend() -> torch.Tensor:
        module = SimpleNamespace(layer_idx=0)
        keys, values = (tensor[:, :, : layer.used] for tensor in (layer.keys, layer.values))
        return bounded_attention(module, query, keys, values, None, WIDTH**-0.5, context)[0]

    return attend, lambda: policy.scores(layer), cache


@pytest.fixture(scope="module")
def model(model):
    """Heads as wide as here."""
    assert model.head_width == WIDTH
    return model


def test_attention_and_features_take_the_same_for_any_number_of_documents(model, make_scorer):
    """Outputs aside: they belong to the model."""
    found = {}
    for batch in (1, 16, 64):
        attend, _, _ = a_layer(model, make_scorer, batch)
        found[batch] = peak(attend) - batch * HEADS * QUERIES * WIDTH * 4
    # Scores, their mean, the spectrum of every frame, and copies of what is rotated.
    assert max(found.values()) < 5 * TILE_BYTES, found
    assert max(found.values()) < 1.5 * found[1], found
    assert found[64] < 1.05 * found[16], found


def test_scores_take_the_same_for_any_number_of_documents(model, make_scorer):
    found = {}
    for batch in (4, 16, 64):
        _, score, cache = a_layer(model, make_scorer, batch)
        found[batch] = peak(score) - cache.layers[0].used * batch * KV_HEADS * 4 * 2
    assert max(found.values()) < 1.25 * SCORE_BYTES, found
    assert found[64] < 1.05 * found[16], found


def test_it_is_the_parts_that_bound_it(model, make_scorer, monkeypatch):
    """With a limit that nothing exceeds, temporaries grow with the batch: the tests above can fail."""
    attend, score, _ = a_layer(model, make_scorer, 48)
    limited = peak(attend), peak(score)
    monkeypatch.setattr(namm, "SCORE_BYTES", 1 << 40)
    assert peak(score) > 3 * limited[1]
    monkeypatch.setattr(bounded, "TILE_BYTES", 1 << 40)
    assert peak(attend) > 3 * limited[0]


@pytest.mark.parametrize("tokens", [512, 37])
def test_parts_compute_what_the_whole_does(model, make_scorer, monkeypatch, tokens):
    """Output, what the policy saw, queries held back, and scores."""
    results = []
    for limit in (1 << 40, 1 << 20):
        monkeypatch.setattr(bounded, "TILE_BYTES", limit)
        monkeypatch.setattr(namm, "SCORE_BYTES", limit)
        attend, score, cache = a_layer(model, make_scorer, 5, tokens)
        layer = cache.layers[0]
        output = attend()
        assert (layer.queries is None) == (tokens % 16 == 0)
        held = torch.zeros(0) if layer.queries is None else layer.queries
        results.append((output, held, *layer.state.values(), score()))
    for whole, parts in zip(*results, strict=True):
        assert whole.shape == parts.shape
        assert torch.allclose(whole, parts, atol=1e-5)


def reading(model, make_scorer, tokens: int, layers: int = 2) -> int:
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    decoder = LlamaForCausalLM._from_config(config, attn_implementation="bounded").eval()
    memory = Memory(replace(model, model=decoder), policies.make("namm", 512, make_scorer()), 512, 512)
    ids = torch.randint(0, 300, (1, tokens), generator=torch.Generator().manual_seed(0))
    memory.feed(ids[:, :1024])  # the cache is there and its slots are full
    return peak(lambda: memory.feed(ids))


def test_reading_takes_the_same_however_long_the_document_and_many_the_layers(model, make_scorer):
    short = reading(model, make_scorer, 1024)
    assert reading(model, make_scorer, 8192) < 1.02 * short
    assert reading(model, make_scorer, 1024, layers=6) < 1.02 * short
