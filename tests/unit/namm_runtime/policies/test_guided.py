"""How the prompts' attention and a policy's own scores share the slots."""

import pytest
import torch

from namm_runtime.cache import BoundedLayer
from namm_runtime.policies import guided
from namm_runtime.probe import Probe

SLOTS, BUDGET = 512, 128


@pytest.fixture
def layer() -> BoundedLayer:
    layer = BoundedLayer(BUDGET, SLOTS, {})
    keys = torch.zeros(1, 1, SLOTS, 2)
    layer.update(keys, keys)
    empty = torch.zeros(1, 1, 0, 2)
    layer.probe = Probe(empty, empty[..., 0], torch.ones(1, 1, 2), torch.full((1, 1, SLOTS, 2), 1e-6))
    return layer


def kept(layer: BoundedLayer, scores: torch.Tensor, own_share: float) -> set[int]:
    layer.compact(guided.merge(layer, scores, guided.document_attention(layer), own_share))
    return set(layer.positions[0, 0, : layer.start].tolist())


def test_what_follows_an_attended_word_is_kept(layer):
    layer.probe.attention[0, 0, 200, 1] = 0.01
    found = kept(layer, torch.zeros(1, 1, SLOTS), 0.25)
    assert set(range(200 - guided.AHEAD, 200 + guided.BACK + 1)) <= found


def test_a_vague_prompt_does_not_dilute_a_specific_one(layer):
    layer.probe.attention[0, 0, :, 0] = 0.9 / SLOTS  # much attention, all over the document
    layer.probe.attention[0, 0, 200, 1] = 0.0001  # nearly all of this one's is on the first tokens
    assert 200 in kept(layer, torch.zeros(1, 1, SLOTS), 0.25)


def test_the_first_tokens_attract_attention_that_does_not_count(layer):
    layer.probe.attention[0, 0, 0] = 0.99
    attention = guided.document_attention(layer)
    assert attention[0, 0, : guided.SINKS].sum() == 0
    assert torch.allclose(guided.in_all(attention), torch.full((1, 1, 2), 1e-6 * (SLOTS - guided.SINKS)))


def test_slots_without_a_token_have_no_attention(layer):
    layer.start, layer.pending, layer.lengths = SLOTS, 0, torch.tensor([[SLOTS - 10]])
    assert guided.document_attention(layer)[0, 0, -10:].sum() == 0
    assert guided.document_attention(layer)[0, 0, -11].sum() > 0


def test_sinks_and_recent_tokens_always_stay(layer):
    layer.probe.attention[0, 0, 100:300] = 0.01
    found = kept(layer, torch.zeros(1, 1, SLOTS), 0.25)
    assert set(range(guided.SINKS)) | set(range(SLOTS - guided.RECENT, SLOTS)) <= found
    assert len(found) == BUDGET


def test_the_policy_has_its_own_share(layer):
    layer.probe.attention[0, 0, 100:300] = torch.rand(200, 2)
    scores = torch.zeros(1, 1, SLOTS)
    scores[0, 0, 400:460] = torch.rand(60) + 1
    taken = len(kept(layer, scores, 0.25) & set(range(400, 460)))
    free = BUDGET - guided.SINKS - guided.RECENT
    assert taken == pytest.approx(0.25 * free, abs=2)


def test_without_a_share_the_policy_has_no_say(layer):
    layer.probe.attention[0, 0, 100:300] = torch.rand(200, 2)
    scores = torch.zeros(1, 1, SLOTS)
    scores[0, 0, 400:460] = 1
    assert not kept(layer, scores, 0.0) & set(range(400, 460))
