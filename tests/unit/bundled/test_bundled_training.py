"""The pieces that make the bundled model: its tokenizer, its start, its forward pass."""

import random
from itertools import chain

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.bundled.curriculum import Curriculum, encoder, make_batch
from namm_runtime.bundled.forward import key_similarity, traced_forward
from namm_runtime.bundled.init import bundled_config, initialise
from namm_runtime.bundled.losses import answer_loss, gaze_loss, key_loss, text_loss
from namm_runtime.bundled.tokenizer import VOCAB_SIZE, train_tokenizer
from namm_runtime.tasks import make_document, sample_facts
from namm_runtime.tasks.sequences import Role


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(seed=0, max_length=2048)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    model = LlamaForCausalLM(
        bundled_config(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    ).eval()
    initialise(model, seed=0)
    return model


def test_tokenizer_spells_every_byte(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= VOCAB_SIZE
    text = "".join(map(chr, range(1, 0x250))) + "日本\u2028\U0001f600\r\n\t  x"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_digits_come_in_pairs(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = tokenizer.tokenize("48213 7", add_special_tokens=False)
    assert pieces == ["48", "21", "3", "Ġ7"]


def test_pieces_apart_have_the_tokens_of_the_pieces_joined(tokenizer: PreTrainedTokenizerFast) -> None:
    encode = encoder(tokenizer)
    document = make_document(20_000, 20, seed=1, split="test", filler="mixed")
    for planted in document.facts:
        fact, end = planted.fact, planted.offset + len(planted.fact.sentence)
        parts = (document.text[: planted.offset], fact.prompt, fact.completion, document.text[end:])
        assert list(chain.from_iterable(encode(parts))) == encode([document.text])[0]


def test_ordinary_text_compresses(tokenizer: PreTrainedTokenizerFast) -> None:
    text = make_document(200_000, 0, seed=1, split="test", filler="stdlib").text
    assert len(text) / len(encoder(tokenizer)([text])[0]) >= 2.7


def test_the_start_already_copies_a_stated_value(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    batch = make_batch(tokenizer, encoder(tokenizer), 64, random.Random(0))
    with torch.no_grad():
        trace = traced_forward(model, batch.ids, batch.question_starts)
        _, accuracy = answer_loss(model, trace, batch)
    assert accuracy > 0.5  # untrained; chance is 1 in 2,048


def test_forward_equals_transformers(model: LlamaForCausalLM) -> None:
    ids = torch.randint(2, 2000, (2, 200), generator=torch.Generator().manual_seed(1))
    starts = torch.tensor([120, 150])
    with torch.no_grad():
        expected = model.model(ids, use_cache=False).last_hidden_state
        torch.testing.assert_close(traced_forward(model, ids, starts).hidden, expected)
        roomy = traced_forward(model, ids, starts, budget=200).hidden
        torch.testing.assert_close(roomy, expected, atol=1e-4, rtol=1e-4)
        tight = traced_forward(model, ids, starts, budget=10).hidden
    # A budget changes what questions see and nothing before them.
    torch.testing.assert_close(tight[:, :120], expected[:, :120], atol=1e-4, rtol=1e-4)
    assert (tight[0, 120:] - expected[0, 120:]).abs().max() > 0.1


def test_key_similarity_is_the_cosine_with_the_mean_direction() -> None:
    keys = torch.tensor([[[[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]]])
    counted = torch.tensor([[True, True, False]])
    half = 0.5**0.5
    torch.testing.assert_close(key_similarity(keys, counted), torch.tensor([[[half, half, -half]]]))


def test_losses_are_finite_and_reach_the_weights(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    batch = make_batch(tokenizer, encoder(tokenizer), 128, random.Random(1))
    assert {int(role) for role in batch.roles.unique()} == {int(role) for role in Role}
    trace = traced_forward(model, batch.ids, batch.question_starts, budget=40)
    losses = [
        answer_loss(model, trace, batch)[0],
        text_loss(model, trace, batch),
        key_loss(trace, batch),
        gaze_loss(trace, batch),
    ]
    for loss in losses:
        (gradient,) = torch.autograd.grad(
            loss, [model.model.layers[1].self_attn.k_proj.weight], retain_graph=True
        )
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0


def test_curriculum_grows_only_on_good_answers_at_the_present_length() -> None:
    curriculum = Curriculum(random.Random(0))
    assert not curriculum.record(64, 0.5)
    assert curriculum.next_length() == 64
    while not curriculum.record(64, 1.0):
        pass
    assert curriculum.level == 1
    assert not curriculum.record(64, 1.0)
    assert {curriculum.next_length() for _ in range(50)} == {64, 128}


def test_facts_are_short_in_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    facts = sample_facts(300, random.Random(1), "test")
    lengths = [len(ids) for ids in encoder(tokenizer)([fact.sentence for fact in facts])]
    assert sum(lengths) / len(lengths) < 11
