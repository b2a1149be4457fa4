"""Reading in two passes on plain torch is reading in one pass: what a GPU does, run on the CPU."""

from dataclasses import replace

import pytest
import torch

from benchmarks.gpu.checks import dense, error_through_evictions, layer_of, make_case, relative
from namm_runtime import policies
from namm_runtime.attention.backends import Backend
from namm_runtime.attention.columns import fold_tiles
from namm_runtime.attention.flash import plain
from namm_runtime.attention.two_pass import attend, merge
from namm_runtime.engine.memory import Memory
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer.regime import Regime

TWO_PASSES = Backend("two passes in plain torch", plain, fold_tiles)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("start", "pending", "queries"), [(90, 80, 64), (0, 48, 48), (300, 16, 1), (50, 40, 7)]
)
def test_two_calls_equal_one_softmax_on_ragged_heads(dtype, start, pending, queries):
    case = make_case(dtype=dtype, start=start, pending=pending, queries=queries)
    given = case.source
    layer = layer_of(case)
    output, source = attend(plain, given.query, given.key, layer, given.scaling, given.seen)
    assert output.dtype == dtype
    assert relative(output, case.output) < (1e-2 if dtype == torch.bfloat16 else 1e-5)
    assert torch.allclose(source.lse.double(), dense(given, case.value)[2], atol=1e-5)
    assert relative(source.columns(0, given.seen), case.columns) < 1e-5


def test_heads_that_kept_nothing_see_the_pending_tokens_only():
    case = make_case()
    case.source.lengths[0] = 0
    _, exact, _ = dense(case.source, case.value)
    given, layer = case.source, layer_of(case)

    def kernel(query, keys, values, lengths, causal, scaling):
        """Flash kernels say +inf and leave anything in rows without a key."""
        output, lse = plain(query, keys, values, lengths, causal, scaling)
        empty = (lengths == 0).view(-1, 1, 1)
        return output.masked_fill(empty.unsqueeze(-1), torch.nan), lse.masked_fill(empty, torch.inf)

    output, source = attend(kernel, given.query, given.key, layer, given.scaling, given.seen)
    assert relative(output, exact) < 1e-6
    assert source.lse.isfinite().all()


def test_merging_is_exact_when_one_side_has_all_the_weight():
    one, other = torch.randn(2, 3, 4, 2, 8, generator=torch.Generator().manual_seed(0))
    high, low = torch.full((3, 2, 4), 300.0), torch.full((3, 2, 4), -300.0)
    assert torch.equal(merge(one, high, other, low)[0], one)
    assert torch.equal(merge(one, low, other, high)[0], other)


def memories(model, make_scorer, name, by_slot, budget=96, interval=128, **config):
    def memory(backend):
        policy = policies.make(name, budget, make_scorer(**config))
        return Memory(model, policy, budget, interval, by_slot, backend)

    return memory(None), memory(TWO_PASSES)


def assert_same(one: Memory, other: Memory, tolerance: float = 1e-5) -> None:
    for a, b in zip(one.cache.layers, other.cache.layers, strict=True):
        a.check_integrity()
        b.check_integrity()
        assert (a.start, a.pending, a.clock) == (b.start, b.pending, b.clock)
        assert torch.equal(a.lengths, b.lengths)
        used = ~a.unused()
        assert torch.equal(a.positions[:, :, : a.used][used], b.positions[:, :, : b.used][used])
        for name in a.state:
            states = (layer.state[name][:, :, : layer.used][used] for layer in (a, b))
            assert torch.allclose(*states, atol=tolerance), name


@pytest.mark.parametrize("by_slot", [False, True])
@pytest.mark.parametrize(
    "name", ["namm", "h2o", "snapkv", "streaming", "keydiff", "keydiff-token", "l2", "full"]
)
def test_a_document_is_read_alike(model, make_scorer, ids, name, by_slot):
    one, two = memories(model, make_scorer, name, by_slot)
    assert two.context.backend_name == "two passes in plain torch"
    assert one.context.backend_name == "one pass (torch)"
    assert torch.allclose(one.feed(ids), two.feed(ids), atol=1e-4)
    assert_same(one, two)


@pytest.mark.parametrize("name", ["namm", "h2o", "snapkv"])
@pytest.mark.parametrize("steps", [(512,), (16,) * 32, (1,) * 160, (37, 100, 375), (7, 121, 1, 383)])
def test_however_the_tokens_come(model, make_scorer, ids, name, steps):
    one, two = memories(model, make_scorer, name, True)
    expected = one.feed(ids[:, : sum(steps)])
    for piece in ids[:, : sum(steps)].split(list(steps), dim=1):
        logits = two.feed(piece)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert_same(one, two)


@pytest.mark.parametrize("by_slot", [False, True])
def test_heads_of_different_lengths(model, make_scorer, ids, by_slot):
    config = {"threshold": 0.0, "key_input": True, "key_deviation": 0.1}
    one, two = memories(model, make_scorer, "namm", by_slot, budget=700, interval=256, **config)
    assert torch.allclose(one.feed(ids[:, :800]), two.feed(ids[:, :800]), atol=1e-4)
    assert two.cache.layers[0].ragged, "the threshold should have left heads of different lengths"
    assert_same(one, two)


def test_batches_are_read_alike(model, make_scorer, ids):
    rows = torch.cat((ids[:, :600], ids[:, 600:1200]))
    one, two = memories(model, make_scorer, "namm", True)
    assert torch.allclose(one.feed(rows), two.feed(rows), atol=1e-4)
    assert_same(one, two)


def test_saved_forked_and_read_on(model, make_scorer, ids, tmp_path):
    _, straight = memories(model, make_scorer, "namm", True)
    expected = straight.feed(ids[:, :900])
    _, first = memories(model, make_scorer, "namm", True)
    first.feed(ids[:, :555])  # queries are held back here
    first.save(tmp_path / "m.safetensors")
    _, second = memories(model, make_scorer, "namm", True)
    second.restore(tmp_path / "m.safetensors")
    fork = first.fork()
    assert fork.context.backend is TWO_PASSES
    for memory in (second, fork):
        assert torch.allclose(memory.feed(ids[:, 555:900]), expected, atol=1e-5)
        assert_same(straight, memory)


def test_parity_mode_is_read_alike(model, make_scorer, ids):
    """Two documents, one length for all heads of each: rows of a batch differ in length."""
    scorer = replace(make_scorer(threshold=0.0), regime=Regime("parity", None, 128, "absolute"))
    rows = torch.cat((ids[:, :600], ids[:, 600:1200]))
    one, two = (
        Memory(model, Namm(scorer, mode="parity"), None, 128, False, backend)
        for backend in (None, TWO_PASSES)
    )
    assert torch.allclose(one.feed(rows), two.feed(rows), atol=1e-4)
    assert_same(one, two)


def test_features_through_evictions_equal_double_precision():
    assert error_through_evictions(fold_tiles) < 1e-5
