"""Teacher forcing predicts what stepping through the same tokens does, and leaves the memory as it was."""

import pytest
import torch

from namm_runtime import policies
from namm_runtime.engine.forced import predict_answer, predict_text
from namm_runtime.engine.memory import Memory
from namm_runtime.errors import Refusal

TEXT = "The quick brown fox jumps over the lazy dog. " * 4


@pytest.fixture
def memory(model) -> Memory:
    memory = Memory(model, policies.make("streaming", 32, None, "budget"), 32, 64)
    memory.feed(model.encode(TEXT[:128]))
    return memory


def test_a_forced_answer_is_what_stepping_through_its_tokens_gives(model, memory):
    before = {name: tensor.clone() for name, tensor in memory.tensors().items()}
    found = predict_answer(memory, "Who?", "The fox is", " red")
    step, nll, right = memory.fork(), 0.0, 0
    logits = step.feed(model.encode("\nWho?\nThe fox is", opening=False))
    for token in model.encode(" red", opening=False)[0].tolist():
        nll -= float(torch.log_softmax(logits[0], -1)[token])
        right += int(logits[0].argmax()) == token
        logits = step.feed(torch.tensor([[token]]))
    assert (found.tokens, found.right) == (4, right)
    assert found.nll == pytest.approx(nll, rel=1e-4)
    assert not found.exact
    assert all(torch.equal(tensor, before[name]) for name, tensor in memory.tensors().items())


def test_an_answer_is_exact_if_its_tokens_are_the_likeliest(model, memory):
    for lead in "abcdefghijklmnopqrstuvwxyz":
        logits = memory.fork().feed(model.encode(f"\nWho?\n{lead}", opening=False))
        likeliest = model.tokenizer.decode([int(logits[0].argmax())])
        if likeliest.isascii() and likeliest.isprintable() and likeliest:
            assert predict_answer(memory, "Who?", lead, likeliest).exact
            assert not predict_answer(memory, "Who?", lead, "~" if likeliest != "~" else "!").exact
            return
    pytest.fail("no lead is followed by a printable character")


def test_a_text_is_predicted_from_its_second_token_on(model, memory):
    found = predict_text(memory, "and on")
    logits = memory.fork().logits(model.encode("and on", opening=False))[0]
    wanted = model.encode("and on", opening=False)[0, 1:]
    nll = torch.nn.functional.cross_entropy(logits[:-1], wanted, reduction="sum")
    assert found.tokens == 5
    assert found.nll == pytest.approx(float(nll), rel=1e-4)


def test_only_what_fits_before_the_next_eviction_is_predicted(model, memory):
    assert predict_text(memory, "x" * 200).tokens == 63
    with pytest.raises(Refusal) as refusal:
        predict_answer(memory, "Who?", "x" * 60, " red")
    assert refusal.value.code == "prompt_too_long"
    memory.feed(model.encode("y" * 63, opening=False))
    assert predict_text(memory, "x" * 200) is None
