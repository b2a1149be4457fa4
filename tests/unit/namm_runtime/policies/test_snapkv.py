"""The window before each eviction decides, however the queries came and whatever earlier windows saw."""

import pytest
import torch

from namm_runtime.engine.memory import Memory
from namm_runtime.policies.snapkv import SnapKV


class Watching(SnapKV):
    """Remembers what attention it was shown, and its scores."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.columns, self.scored = {}, []

    def observe(self, layer, columns):
        seen = self.columns.setdefault(id(layer), [])
        padded = torch.nn.functional.pad(columns, (0, 2048 - columns.shape[-1]))
        seen.append(padded.clone())
        super().observe(layer, columns)

    def scores(self, layer):
        scores = super().scores(layer)
        mass = torch.cat(self.columns.pop(id(layer)), dim=2)[:, :, -self.window :, : layer.used].sum(2)
        self.scored.append((scores.clone(), mass, layer.used))
        return scores


@pytest.mark.parametrize("window", [16, 32, 128])
@pytest.mark.parametrize("pieces", [[1280], [100, 28, 1, 500, 651]])
def test_the_scores_are_the_last_windows_attention(model, ids, window, pieces):
    policy = Watching(window=window, kernel=None)
    memory = Memory(model, policy, 200, 128)
    for piece in ids.split(pieces, dim=1):
        memory.feed(piece)
    assert len(policy.scored) == 2 * 10
    for scores, mass, used in policy.scored:
        old = slice(0, used - window)
        assert torch.allclose(scores[..., old], mass[..., old], atol=1e-5)
        assert (scores[..., used - window :] == torch.inf).all()


def test_a_window_seen_in_part_forgets_earlier_windows_too(model, ids):
    policy = Watching(window=32, kernel=None)
    Memory(model, policy, 200, 128, watch_last=16).feed(ids[:, :640])
    for scores, _, _ in policy.scored:
        old = scores[scores < torch.inf].view(*scores.shape[:2], -1)
        assert (old.sum(-1) < 16).all(), "16 queries pay attention of 16 in all"


def test_windows_longer_than_the_interval_take_what_there_is(model, ids):
    policy = Watching(window=128, kernel=None)
    memory = Memory(model, policy, 256, 64)
    memory.feed(ids[:, :512])
    for scores, mass, _ in policy.scored:
        seen = scores < torch.inf
        assert torch.allclose(scores[seen], mass[seen], atol=1e-5)


def test_pooling_lifts_neighbours(model, ids):
    plain, pooled = Watching(kernel=None), Watching(kernel=5)
    for policy in (plain, pooled):
        Memory(model, policy, 512, 512).feed(ids[:, :512])
    before, after = plain.scored[0][0][0, 0, :480], pooled.scored[0][0][0, 0, :480]
    expected = torch.stack([before[max(0, slot - 2) : slot + 3].max() for slot in range(480)])
    assert torch.equal(after, expected)


@pytest.mark.parametrize("settings", [{"window": 0}, {"window": 40}, {"kernel": 4}, {"kernel": 0}])
def test_other_settings_are_refused(settings):
    with pytest.raises(ValueError, match="window"):
        SnapKV(**settings)
