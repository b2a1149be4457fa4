"""Prompts attend to the cache before each eviction as if they were asked there, and leave nothing in it."""

import pytest
import torch
from transformers import LlamaForCausalLM

from namm_runtime import policies
from namm_runtime.attention.guide import Guide
from namm_runtime.engine.memory import Memory
from namm_runtime.errors import Refusal

PROMPTS = ((5, 6, 7, 8, 9), (30, 31, 32), (77, 78, 79, 80, 81, 82, 83))


class Looking(policies.Policy):
    """Keeps the newest tokens, and what the prompts had seen by the first eviction."""

    name = "looking"

    def scores(self, layer):
        if layer.probe is not None and layer.clock == layer.interval:
            self.seen = [*getattr(self, "seen", []), layer.probe.attention[:, :, : layer.used].clone()]
        return layer.positions[:, :, : layer.used].float()


def guided(model, policy, prompts=PROMPTS, budget=96, by_slot=True) -> Memory:
    return Memory(model, policy, budget, 128, by_slot, prompts=prompts)


def stock_attention(plain: LlamaForCausalLM, document: torch.Tensor, prompt: tuple[int, ...]) -> list:
    """The prompt's attention to the document in stock transformers, as a policy sees it, by layer."""
    twin = LlamaForCausalLM(plain.config).eval()
    twin.load_state_dict(plain.state_dict())
    twin.set_attn_implementation("eager")
    tokens = document.shape[1]
    with torch.inference_mode():
        output = twin(torch.cat((document, torch.tensor([prompt])), dim=1), output_attentions=True)
    seen = [weights[:, :, tokens:, :tokens].mean(2) for weights in output.attentions]
    return [one.view(1, 2, 2, tokens).amax(2) for one in seen]


@pytest.mark.parametrize("by_slot", [True, False])
def test_a_prompt_sees_what_it_would_see_in_stock_transformers(plain, model, ids, by_slot):
    policy = Looking()
    guided(model, policy, by_slot=by_slot).feed(ids[:, :128])
    for number, prompt in enumerate(PROMPTS):
        expected = stock_attention(plain, ids[:, :128], prompt)
        for layer, seen in enumerate(policy.seen):
            assert torch.allclose(seen[..., number], expected[layer], atol=1e-6)


def test_prompts_leave_nothing_in_the_cache(model, ids):
    open_, with_prompts = Memory(model, Looking(), 96, 128), guided(model, Looking())
    for memory in (open_, with_prompts):
        memory.logits_before = memory.feed(ids[:, :128])
    assert with_prompts.clock == 128
    assert torch.allclose(open_.logits_before, with_prompts.logits_before, atol=1e-5)
    for layer in with_prompts.cache.layers:
        assert layer.used == 96
        assert layer.guest_tokens == 0
        layer.check_integrity()


def test_a_padded_batch_sees_what_each_document_sees_alone(model, ids):
    documents = ids[0, :1024].view(2, 512)
    by_document = (((5, 6, 7), (9,)), ((40, 41), (50, 51, 52, 53)))

    def read(rows: list[int]) -> Memory:
        memory = Memory(model, Looking(), 96, 128)
        memory.context.guide = Guide.of([by_document[row] for row in rows], turn_tokens=3)
        assert len(memory.context.guide.turns) == 2
        memory.feed(documents[rows])
        return memory

    together, alone = read([0, 1]), [read([0]), read([1])]
    for row in range(2):
        for ours, theirs in zip(together.cache.layers, alone[row].cache.layers, strict=True):
            assert torch.allclose(ours.probe.attention[row], theirs.probe.attention[0], atol=1e-6)
            assert torch.allclose(ours.probe.spared[row], theirs.probe.spared[0], atol=1e-6)


def test_after_the_first_eviction_prompts_take_turns(model, ids, monkeypatch):
    memory = guided(
        model, Looking()
    )  # at most 16 tokens pass at an eviction: 15 of three prompts in one turn
    assert memory.context.guide.turns == ((0, 15),)
    longer = guided(model, Looking(), (*PROMPTS, (1, 2, 3)))
    assert longer.context.guide.turns == ((0, 15), (15, 18))
    passed = []
    forward = longer._forward
    monkeypatch.setattr(
        longer, "_forward", lambda ids, keep: passed.append(longer.context.turn) or forward(ids, keep)
    )
    longer.feed(ids[:, :640])
    assert passed == [(0, 18), (15, 18), (0, 15), (15, 18), (0, 15)]


def test_prompts_that_are_not_on_turn_attend_with_their_latest_queries(model, ids):
    """With unchanged slots and their latest pass at the same place, both ways see the same."""
    longer = guided(model, Looking(), (*PROMPTS, (1, 2, 3)))
    longer.feed(ids[:, :128])
    stale = [layer.probe.queries[:, :, :15].clone() for layer in longer.cache.layers]
    longer.feed(ids[:, 128:256])  # the turn of the last prompt
    for layer, before in zip(longer.cache.layers, stale, strict=True):
        assert torch.equal(layer.probe.queries[:, :, :15], before)
    longer.feed(ids[:, 256:384])
    assert not torch.equal(longer.cache.layers[1].probe.queries[:, :, :15], stale[1])


@pytest.mark.parametrize("name", ["namm", "h2o", "keydiff", "prompts"])
@pytest.mark.parametrize("cut", [128, 700])
def test_a_guided_memory_that_was_saved_reads_on_like_one_that_was_not(
    model, make_scorer, ids, tmp_path, name, cut
):
    def empty() -> Memory:
        return guided(model, policies.make(name, 96, make_scorer()), (*PROMPTS, (1, 2, 3)))

    straight, first, second = empty(), empty(), empty()
    straight.feed(ids[:, :cut])
    expected = straight.feed(ids[:, cut:])
    first.feed(ids[:, :cut])
    first.save(tmp_path / "m.safetensors")
    second.restore(tmp_path / "m.safetensors")
    assert torch.equal(second.feed(ids[:, cut:]), expected)
    assert second.evicted_attention(PROMPTS[0]) == straight.evicted_attention(PROMPTS[0])
    left = straight.tensors()
    for part, tensor in second.tensors().items():
        assert torch.equal(tensor, left[part]), part
    with pytest.raises(Refusal, match="another model, scorer or setting"):
        guided(model, policies.make(name, 96, make_scorer())).restore(tmp_path / "m.safetensors")


def test_what_is_evicted_is_counted_for_each_prompt(model, ids):
    memory = guided(model, policies.make("keydiff", 96))
    assert memory.evicted_attention(PROMPTS[0]) is None  # nothing was evicted yet
    shares = []
    for begin in range(0, 640, 128):
        memory.feed(ids[:, begin : begin + 128])
        shares.append(memory.evicted_attention(PROMPTS[0]))
    assert all(0 < share < 1 for share in shares)
    assert shares == sorted(shares)
    assert memory.evicted_attention((1, 2, 3)) is None  # it did not guide the reading
    roomy = guided(model, policies.make("keydiff", 640), budget=640)
    roomy.feed(ids[:, :640])
    assert roomy.evicted_attention(PROMPTS[0]) == pytest.approx(0, abs=1e-5)


def test_a_fork_is_guided_by_the_prompt_it_is_for(model, ids):
    memory = guided(model, policies.make("keydiff", 96))
    memory.feed(ids[:, :640])
    fork = memory.fork_for(PROMPTS[1])
    assert fork.prompts == (PROMPTS[1],)
    assert memory.prompts == PROMPTS
    fork.feed(ids[:, 640:768])
    assert fork.cache.layers[0].probe.spared.shape[-1] == 1
    assert memory.cache.layers[0].probe.spared.shape[-1] == 3


def test_rows_that_cannot_be_guided_are_refused(model, make_scorer):
    with pytest.raises(Refusal, match="needs prompts"):
        Memory(model, policies.make("prompts", 96), 96, 128)
    scorer = make_scorer(threshold=0.0)
    with pytest.raises(Refusal, match="parity mode does not support guided reading"):
        Memory(model, policies.make("namm", 96, scorer, "parity"), None, 128, by_slot=False, prompts=PROMPTS)
