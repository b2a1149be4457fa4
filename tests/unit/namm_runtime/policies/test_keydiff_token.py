"""KeyDiff that chooses tokens for the whole model."""

import torch

from namm_runtime import policies
from namm_runtime.cache import BoundedLayer
from namm_runtime.engine.memory import Memory
from namm_runtime.policies.keydiff_token import SINKS, WINDOW, token_scores


def layer_of(positions: list[list[int]], lengths: list[int], start: int, clock: int) -> BoundedLayer:
    """A layer of one document whose heads hold these tokens; slots below `start` may be unused."""
    layer = BoundedLayer(64, 64, {})
    keys = torch.zeros(1, len(positions), len(positions[0]), 2)
    layer.lazy_initialization(keys, keys)
    layer.positions[:, :, : len(positions[0])] = torch.tensor([positions])
    layer.lengths = torch.tensor([lengths])
    layer.start, layer.pending, layer.clock = start, len(positions[0]) - start, clock
    return layer


def by_hand(layers: list[BoundedLayer], scores: list[torch.Tensor]) -> dict[int, float]:
    """Token → the mean over its window of mean ranks, with evicted tokens as zero."""
    ranks: dict[int, list[int]] = {}
    for layer, own in zip(layers, scores, strict=True):
        for head in range(own.shape[1]):
            unused = layer.unused()[0, head]
            order = sorted(range(layer.used), key=lambda n: (not unused[n], float(own[0, head, n])))
            for rank, slot in enumerate(order):
                if not unused[slot]:
                    ranks.setdefault(int(layer.positions[0, head, slot]), []).append(rank)
    means = {token: sum(own) / len(own) for token, own in ranks.items()}
    half, found = WINDOW // 2, {}
    for token in means:
        around = range(max(min(means), token - half), min(max(means), token + half) + 1)
        found[token] = sum(means.get(other, 0.0) for other in around) / len(around)
    return found


def test_scores_are_windowed_means_of_ranks_over_all_heads():
    torch.manual_seed(0)
    layers = [
        layer_of([[5, 6, 9, 30, 31, 32], [5, 8, 9, 30, 31, 32]], [3, 3], 3, 33),
        layer_of([[4, 5, 9, 30, 31, 32], [6, 9, 0, 30, 31, 32]], [3, 2], 3, 33),
    ]
    scores = [torch.rand(1, 2, 6) for _ in layers]
    wanted, found = by_hand(layers, scores), token_scores(layers, scores)
    for layer, own in zip(layers, found, strict=True):
        used = ~layer.unused()
        expected = torch.tensor([wanted[int(token)] for token in layer.positions[:, :, : layer.used][used]])
        torch.testing.assert_close(own[used], expected)


def test_every_head_keeps_the_same_tokens_and_the_first_ones(model, ids):
    memory = Memory(model, policies.make("keydiff-token", 100), 100, 128)
    memory.feed(ids)
    kept = torch.stack([layer.positions[:, :, :100] for layer in memory.cache.layers])
    assert (kept == kept[:1, :, :1]).all()
    assert kept[0, 0, 0, :SINKS].tolist() == list(range(SINKS))


def test_a_document_does_not_depend_on_others(model, ids):
    other = ids.flip(1)
    alone, beside = (Memory(model, policies.make("keydiff-token", 100), 100, 128) for _ in range(2))
    alone.feed(ids)
    beside.feed(torch.cat((other, ids)))
    for one, two in zip(alone.cache.layers, beside.cache.layers, strict=True):
        assert torch.equal(one.positions[0, :, :100], two.positions[1, :, :100])
