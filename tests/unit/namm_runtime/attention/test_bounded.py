"""Attention over the bounded cache is the model's own attention wherever nothing was evicted."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaForCausalLM

from namm_runtime import policies
from namm_runtime.attention import backends, bounded, flash
from namm_runtime.attention.bounded import block_length
from namm_runtime.attention.columns import fold_tiles
from namm_runtime.engine.memory import Memory
from namm_runtime.errors import Refusal

BACKENDS = [None, backends.Backend("plain", flash.plain, fold_tiles)]
POLICIES = ["full", "streaming", "h2o", "snapkv", "l2", "keydiff", "namm"]


@pytest.mark.parametrize("by_slot", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_without_eviction_logits_equal_plain_transformers(plain, model, make_scorer, ids, name, by_slot):
    with torch.no_grad():
        expected = plain(ids).logits[:, -1]
    memory = Memory(model, policies.make(name, 2048, make_scorer()), 2048, 512, by_slot)
    assert torch.allclose(memory.feed(ids), expected, atol=2e-5)


def test_the_comparison_above_can_fail(plain: LlamaForCausalLM, model, ids):
    memory = Memory(model, policies.make("streaming", 256), 256, 512)
    with torch.no_grad():
        expected = plain(ids).logits[:, -1]
    assert not torch.allclose(memory.feed(ids), expected, atol=1e-3)


@pytest.mark.parametrize("policy", ["h2o", "snapkv", "namm"])
@pytest.mark.parametrize(
    "steps", [(512,), (128,) * 4, (16,) * 32, (1,) * 512, (37, 100, 375), (300, 1, 1, 210)]
)
def test_chunking_changes_neither_state_nor_output(model, make_scorer, ids, policy, steps):
    """The policy sees the same columns however the queries come: 1×512 = 4×128 = 32×16 = one by one."""
    whole = Memory(model, policies.make(policy, 256, make_scorer()), 256, 1024)
    pieces = Memory(model, policies.make(policy, 256, make_scorer()), 256, 1024)
    expected = whole.feed(ids[:, :512])
    for piece in ids[:, :512].split(list(steps), dim=1):
        logits = pieces.feed(piece)
    assert torch.allclose(logits, expected, atol=1e-4)
    for one, other in zip(whole.cache.layers, pieces.cache.layers, strict=True):
        assert other.queries is None
        for name in one.state:
            assert torch.allclose(one.state[name], other.state[name], atol=1e-5), name


def test_chunking_changes_no_eviction(model, make_scorer, ids):
    by_chunk = Memory(model, policies.make("namm", 96, make_scorer()), 96, 128)
    by_piece = Memory(model, policies.make("namm", 96, make_scorer()), 96, 128)
    by_chunk.feed(ids)
    for piece in ids.split([7, 121, 1, 500, 651], dim=1):
        by_piece.feed(piece)
    for one, other in zip(by_chunk.cache.layers, by_piece.cache.layers, strict=True):
        assert torch.equal(one.positions[:, :, : one.used], other.positions[:, :, : other.used])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_policy_may_see_the_last_queries_only(model, ids, backend):
    """Of 256 tokens since the last eviction the newest 64 are among the last 320 of 512."""

    def mass(tokens, watch_last=None):
        memory = Memory(model, policies.make("h2o", 256), 256, 512, backend=backend, watch_last=watch_last)
        memory.feed(ids[:, :tokens])
        return memory.cache.layers[1].state["mass"][:, :, :256]

    assert torch.allclose(mass(256, watch_last=320), mass(256) - mass(192), atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", [(16,) * 64, (37, 100, 375, 300, 1, 211)])
def test_the_last_queries_are_the_same_however_they_come(model, make_scorer, ids, steps, backend):
    def memory():
        policy = policies.make("namm", 96, make_scorer())
        return Memory(model, policy, 96, 256, backend=backend, watch_last=64)

    whole, pieces = memory(), memory()
    whole.feed(ids[:, :1024])
    for piece in ids[:, :1024].split(list(steps), dim=1):
        pieces.feed(piece)
    for one, other in zip(whole.cache.layers, pieces.cache.layers, strict=True):
        assert torch.equal(one.positions[:, :, : one.used], other.positions[:, :, : other.used])


@pytest.mark.parametrize("watch_last", [0, 8, 100, 512])
def test_other_numbers_of_last_queries_are_refused(model, watch_last):
    with pytest.raises(Refusal) as refused:
        Memory(model, policies.make("h2o", 256), 256, 256, watch_last=watch_last)
    assert refused.value.code == "bad_interval"


@pytest.mark.parametrize("by_slot", [False, True])
def test_ragged_heads_equal_a_loop_over_heads(model, make_scorer, ids, by_slot):
    """Heads of different lengths attend exactly as if each had a cache of its own length."""
    scorer = make_scorer(threshold=0.0, key_input=True, key_deviation=0.1)
    memory = Memory(model, policies.make("namm", 700, scorer), 700, 256, by_slot)
    memory.feed(ids[:, :768])
    layer = memory.cache.layers[0]
    assert layer.ragged, "the threshold should have left heads of different lengths"
    seen = []
    original = bounded._attend

    def spy(query, key, value, layer, context, scaling, output, watch):
        original(query, key, value, layer, context, scaling, output, watch)
        if layer is memory.cache.layers[0]:
            seen.append((query, key, value, output.clone(), scaling))

    bounded._attend = spy
    try:
        memory.feed(ids[:, 768:800])
    finally:
        bounded._attend = original
    query, key, value, output, scaling = seen[0]
    for head in range(4):
        kv = head // 2
        used = torch.cat((torch.arange(int(layer.lengths[0, kv])), torch.arange(layer.start, key.shape[2])))
        k, v = key[0, kv, used], value[0, kv, used]
        scores = query[0, head] @ k.T * scaling
        scores = scores.masked_fill(torch.ones_like(scores).tril(len(used) - 32) == 0, -torch.inf)
        assert torch.allclose(scores.softmax(-1) @ v, output[0, head], atol=1e-5)


def test_scratch_is_bounded_by_the_tile_not_by_the_document(model, make_scorer, ids, monkeypatch):
    monkeypatch.setattr(bounded, "TILE_BYTES", 64 << 10)
    memory = Memory(model, policies.make("namm", 128, make_scorer()), 128, 256)
    memory.feed(ids[:, :512])
    early = memory.context.scratch_bytes
    memory.feed(ids.repeat(1, 4))
    assert memory.context.scratch_bytes == early
    assert early <= 4 * (64 << 10) + 2 * 384 * 64 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [1, 4])
def test_temporaries_are_those_that_are_stated(model, make_scorer, dtype, layers):
    """Measured at the allocator: once its buffers are there, reading allocates no block of scores."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    decoder = LlamaForCausalLM._from_config(config, attn_implementation="bounded").to(dtype).eval()
    loaded = replace(model, model=decoder)
    memory = Memory(loaded, policies.make("namm", 512, make_scorer()), 512, 512)
    ids = torch.randint(0, 100, (1, 512))
    for _ in range(3):
        memory.feed(ids)
    stated = memory.scratch_bytes
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        for _ in range(3):
            memory.feed(ids)
    largest = max(event.cpu_memory_usage for event in events.events())
    assert largest < stated / 4
    assert memory.scratch_bytes == stated


def test_block_length_is_a_multiple_of_sixteen():
    assert block_length(1 << 30, 512) == 16
    assert block_length(bounded.TILE_BYTES // 100, 512) == 96
    assert block_length(1, 512) == 512


def test_transformers_builds_no_mask(model, make_scorer, ids, monkeypatch):
    masks = []
    original = bounded.bounded_attention
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def spy(module, query, key, value, mask, **kwargs):
        masks.append(mask)
        return original(module, query, key, value, mask, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "bounded", spy)
    Memory(model, policies.make("streaming", 128), 128, 256).feed(ids)
    assert masks
    assert all(mask is None for mask in masks)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 8])
def test_the_mean_of_a_group_is_that_of_torch(group):
    weights = torch.rand(2, 3, group, 5, 7, generator=torch.Generator().manual_seed(0))
    out = torch.empty(5, 2, 3, 7).permute(1, 2, 0, 3)
    bounded._mean_of_group(weights, out)
    assert torch.allclose(out, weights.mean(dim=2), rtol=1e-6, atol=0)
