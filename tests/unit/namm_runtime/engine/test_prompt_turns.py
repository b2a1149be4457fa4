"""What prompts see when they are on turn, and what they go on from when they are not."""

import pytest
import torch

from namm_runtime import policies
from namm_runtime.cache import BoundedLayer
from namm_runtime.engine.memory import Memory
from namm_runtime.probe import Probe

ONE, OTHER = (*range(5, 18),), (*range(40, 49),)  # at most 16 tokens pass at an eviction: one prompt each
SPANS = ((0, 13), (13, 22))


class Watching(policies.Policy):
    """Keeps every other slot and the newest ones, and what each eviction saw of the first layer."""

    name = "watching"

    def __init__(self) -> None:
        self.seen: list[tuple[int, Probe, torch.Tensor]] = []

    def scores(self, layer: BoundedLayer) -> torch.Tensor:
        if layer.placement.layer == 0:
            self.seen.append((layer.start, layer.probe.clone(), layer.keys[:, :, : layer.used].clone()))
        where = layer.positions[:, :, : layer.used]
        return (where % 2 * 1000 + where).float()


@pytest.fixture
def memory(model) -> Memory:
    return Memory(model, Watching(), 96, 128, prompts=(ONE, OTHER))


def computed(memory: Memory, prompt: int, first: int) -> torch.Tensor:
    """A prompt's attention to the slots from `first` on, from its latest queries and normaliser."""
    _, probe, keys = memory.policy.seen[-1]
    (begin, end), slots, rotate = SPANS[prompt], keys.shape[2], memory.context.rotation.rotate
    queries = probe.queries[:, :, begin:end]
    batch, q_heads, tokens, width = queries.shape
    queries = rotate(queries, (slots + torch.arange(tokens)).expand(batch, q_heads, tokens))
    keys = rotate(keys, torch.arange(slots).expand(*keys.shape[:2], slots))[:, :, first:]
    keys = keys.repeat_interleave(q_heads // keys.shape[1], dim=1)
    scores = queries @ keys.transpose(-1, -2) / width**0.5
    weights = (scores - probe.normaliser[:, :, begin:end, None]).clamp(max=0).exp()
    return weights.mean(2).view(batch, keys.shape[1] // 2, 2, -1).amax(2)


def test_a_prompt_on_turn_sees_all_slots_anew(memory, ids):
    memory.feed(ids[:, :512])  # the fourth eviction is the second prompt's turn
    assert memory.context.turn == SPANS[1]
    _, probe, keys = memory.policy.seen[-1]
    seen = probe.attention[:, :, : keys.shape[2], 1]
    assert torch.allclose(seen, computed(memory, 1, 0), atol=1e-6)


def test_a_prompt_that_is_not_on_turn_sees_only_new_slots(memory, ids):
    memory.feed(ids[:, :384])
    before = [layer.probe.attention[:, :, :96].clone() for layer in memory.cache.layers]
    memory.feed(ids[:, 384:512])
    start, probe, _ = memory.policy.seen[-1]
    assert start == 96
    assert torch.equal(probe.attention[:, :, :96, 0], before[0][..., 0])
    assert not torch.equal(probe.attention[:, :, :96, 1], before[0][..., 1])
    assert torch.allclose(probe.attention[:, :, 96:224, 0], computed(memory, 0, 96), atol=1e-6)


def test_a_lone_prompt_is_always_on_turn(model, ids):
    memory = Memory(model, policies.make("keydiff", 96), 96, 128, prompts=[ONE])
    memory.feed(ids[:, :640])
    fresh = memory.fork_for(ONE)
    assert fresh.cache.layers[0].probe is None  # it computes everything from scratch
    for one in (memory, fresh):
        one.feed(ids[:, 640:768])
    for old, new in zip(memory.cache.layers, fresh.cache.layers, strict=True):
        assert torch.equal(old.positions[:, :, :96], new.positions[:, :, :96])
        assert torch.equal(old.probe.attention[:, :, :96], new.probe.attention[:, :, :96])
        assert torch.equal(old.probe.normaliser, new.probe.normaliser)


def test_a_new_slot_far_above_all_others_gets_all_attention_and_no_more(memory, ids):
    memory.feed(ids[:, :384])
    for layer in memory.cache.layers:
        layer.probe.normaliser = torch.full_like(layer.probe.normaliser, -1000)
    memory.feed(ids[:, 384:512])
    _, probe, _ = memory.policy.seen[-1]
    assert (probe.attention[:, :, 96:224, 0] == 1).all()


def test_what_prompts_keep_is_resident(model, ids):
    open_, guided = (
        Memory(model, policies.make("keydiff", 96), 96, 128, prompts=asked) for asked in ((), (ONE, OTHER))
    )
    for memory in (open_, guided):
        memory.feed(ids[:, :256])
    probe = guided.cache.layers[0].probe
    attention = probe.attention.shape[1] * (96 + 128) * 2 * 4
    assert probe.nbytes == attention + probe.queries.nbytes + probe.normaliser.nbytes + probe.spared.nbytes
    more = guided.cache.resident_bytes() - open_.cache.resident_bytes()
    assert more == len(guided.cache.layers) * probe.nbytes


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.bfloat16)],
)
def test_attention_takes_16_bits_where_the_model_does(dtype, kept):
    probe = Probe.before_a_pass(torch.zeros(1, 4, 5, 8, dtype=dtype), heads=2, prompts=3, slots=16)
    assert probe.attention.dtype == kept
    assert probe.spared.dtype == probe.normaliser.dtype == torch.float32
