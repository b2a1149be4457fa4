"""Compaction keeps the right tokens, in order, in place; and the layer knows when its slots are wrong."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from namm_runtime.cache import BoundedLayer, _gather_to_front


def filled(tokens: int, budget: int, heads: int = 2) -> BoundedLayer:
    """A layer whose keys say which token they are."""
    layer = BoundedLayer(budget, 64, {"mass": 1})
    append(layer, tokens, heads)
    return layer


def append(layer: BoundedLayer, tokens: int, heads: int = 2) -> None:
    mark = torch.arange(layer.clock, layer.clock + tokens).float().view(1, 1, tokens, 1)
    before = layer.used
    layer.update(mark.expand(1, heads, tokens, 4), -mark.expand(1, heads, tokens, 4))
    layer.state["mass"][:, :, before : layer.used, 0] = mark[..., 0]


def kept(layer: BoundedLayer, head: int) -> list[int]:
    return layer.positions[0, head, : int(layer.lengths[0, head])].tolist()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from([None, 0.0]))
def test_compaction_equals_sorting_by_hand(seed, budget, threshold):
    generator = torch.Generator().manual_seed(seed)
    layer = filled(48, budget)
    for _ in range(3):
        # Few distinct values, so that there are ties at the cut.
        scores = torch.randint(-3, 4, (1, 2, layer.used), generator=generator).float()
        scores[..., -1] = torch.inf
        expected = []
        for head in range(2):
            here = layer.positions[0, head, : layer.used]
            valid = [
                (float(scores[0, head, slot]), int(here[slot]))
                for slot in range(layer.used)
                if not layer.unused()[0, head, slot]
            ]
            best = sorted(valid, reverse=True)[:budget]
            expected.append(sorted(p for s, p in best if threshold is None or s >= threshold))
        layer.compact(scores, threshold)
        layer.check_integrity()
        for head in range(2):
            assert kept(layer, head) == expected[head]
            used = len(expected[head])
            marks = torch.tensor(expected[head]).float()
            assert torch.equal(layer.keys[0, head, :used, 0], marks)
            assert torch.equal(layer.values[0, head, :used, 3], -marks)
            assert torch.equal(layer.state["mass"][0, head, :used, 0], marks)
        append(layer, 48)


def test_compaction_to_fewer_than_before_keeps_the_newest():
    layer = filled(48, 40)
    layer.compact(torch.ones(1, 2, 48), 0.0)
    append(layer, 8)
    scores = torch.full((1, 2, 48), -1.0)
    scores[..., -4:] = 1.0
    layer.compact(scores, 0.0)
    layer.check_integrity()
    assert kept(layer, 0) == kept(layer, 1) == [52, 53, 54, 55]
    assert layer.keys[0, 0, :4, 0].tolist() == [52, 53, 54, 55]


def test_gathering_in_blocks_equals_one_gather():
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(1, 2, 100, 3, generator=generator)
    order = torch.stack([torch.randperm(100, generator=generator)[:60].sort().values for _ in range(2)])[None]
    expected = tensor.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, 3))
    _gather_to_front(tensor, order, block=7)
    assert torch.equal(tensor[:, :, :60], expected)


def test_capacity_is_allocated_once():
    layer = filled(64, 32)
    where = layer.keys.data_ptr()
    for _ in range(20):
        layer.compact(torch.randn(1, 2, layer.used))
        append(layer, 64)
    assert layer.keys.data_ptr() == where
    assert layer.capacity == 32 + 64
    assert layer.get_seq_length() == 21 * 64


def test_overfull_layers_refuse():
    layer = filled(64, 32)
    layer.compact(torch.randn(1, 2, 64))
    with pytest.raises(RuntimeError, match="do not fit"):
        append(layer, 65)


def test_without_budget_it_grows_and_never_evicts():
    layer = BoundedLayer(None, 64, {"mass": 1})
    for _ in range(5):
        append(layer, 2000)
    assert layer.used == 10_000
    layer.check_integrity()
    with pytest.raises(RuntimeError, match="does not evict"):
        layer.compact(torch.zeros(1, 2, layer.used))


@pytest.mark.parametrize("tokens", [40, 900, 20_000])
def test_a_full_cache_is_hardly_larger_than_its_tokens(tokens):
    layer = BoundedLayer(None, 512, {"mass": 1})
    for begin in range(0, tokens, 512):
        append(layer, min(512, tokens - begin))
    assert tokens <= layer.capacity < tokens * 9 / 8 + 64
    layer.check_integrity()


def test_a_growing_cache_is_copied_only_a_few_times_over():
    layer, copied, capacity = BoundedLayer(None, 512, {"mass": 1}), 0, 0
    while layer.clock < 50_000:
        append(layer, 16)
        copied += capacity if layer.capacity != capacity else 0
        capacity = layer.capacity
    assert copied < 10 * layer.clock


@pytest.mark.parametrize("damage", ["positions", "lengths", "pending", "clock"])
def test_integrity_check_notices(damage):
    layer = filled(40, 32)
    layer.compact(torch.randn(1, 2, 40))
    append(layer, 8)
    layer.check_integrity()
    if damage == "positions":
        layer.positions[0, 1, [3, 4]] = layer.positions[0, 1, [4, 3]]
    elif damage == "lengths":
        layer.lengths -= 1
    elif damage == "pending":
        layer.pending = 65
    else:
        layer.clock += 1
    with pytest.raises(RuntimeError):
        layer.check_integrity()


def test_heads_that_all_keep_the_budget_are_known_not_to_be_ragged_without_asking(monkeypatch):
    layer, scores = filled(tokens=96, budget=64), torch.rand(1, 2, 96)
    for name in ("__bool__", "__int__", "item"):
        monkeypatch.setattr(torch.Tensor, name, lambda self: pytest.fail("the device was asked"))
    for _ in range(2):
        layer.compact(scores)
        assert (layer.start, layer.ragged, layer.rows(0, 1).ragged) == (64, False, False)
        append(layer, 32)
    with pytest.raises(pytest.fail.Exception, match="the device was asked"):
        layer.compact(scores, threshold=0.5)
