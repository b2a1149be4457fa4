"""Losses are finite, reach the weights, and apply only where they should."""

import random

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.tasks.story import Role
from namm_runtime.tasks.suite import encoder
from namm_runtime.training.curriculum import make_batch
from namm_runtime.training.losses import (
    answer_loss,
    gaze_loss,
    key_loss,
    near_loss,
    relevance_loss,
    text_loss,
)
from namm_runtime.training.traced_forward import traced_forward
from tests.support.untrained import EVEN, PLAIN


def test_clutter_comes_once_layer_1_has_learned_what_it_is_for(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    def look(done: float) -> tuple[bool, bool, bool]:
        rng = random.Random(3)
        batches = [make_batch(tokenizer, encoder(tokenizer), 512, PLAIN, rng, done) for _ in range(4)]
        with torch.no_grad():
            trace = traced_forward(model, batches[-1].ids, batches[-1].question_starts)
            near, keys = near_loss(trace, batches[-1]), key_loss(trace, batches[-1])
            trace.keys[1] = -trace.keys[2]
            shaped = key_loss(trace, batches[-1]) != keys
        return any(bool(batch.junk.any()) for batch in batches), bool(shaped), near.item() > 0

    assert look(0.3) == (False, False, False)
    assert look(0.4) == (True, True, True)


def test_text_is_not_learned_from_junk(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    rng, batch = random.Random(3), None
    while batch is None or not batch.junk.any():
        batch = make_batch(tokenizer, encoder(tokenizer), 1024, PLAIN, rng)
    with torch.no_grad():
        trace = traced_forward(model, batch.ids, batch.question_starts, batch.view)
        torch.manual_seed(0)
        without = text_loss(model, trace, batch)
        batch.ids[batch.junk] = 5
        torch.manual_seed(0)
        assert text_loss(model, trace, batch) == without


def test_losses_are_finite_and_reach_the_weights(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    batch = make_batch(tokenizer, encoder(tokenizer), 128, EVEN, random.Random(2))
    assert {int(role) for role in batch.roles.unique()} == {int(role) for role in Role}
    trace = traced_forward(model, batch.ids, batch.question_starts, batch.view, batch.positions)
    losses = [
        answer_loss(model, trace, batch)[0],
        text_loss(model, trace, batch),
        key_loss(trace, batch),
        gaze_loss(trace, batch),
        relevance_loss(trace, batch, torch.nn.Linear(model.config.hidden_size, 1))[0],
    ]
    for loss, number in zip(losses, (2, 2, 1, 2, 1), strict=True):
        layer = model.model.layers[number]
        (gradient,) = torch.autograd.grad(loss, [layer.self_attn.k_proj.weight], retain_graph=True)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0


def test_near_loss_is_what_the_layers_before_the_match_leak(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    def loss() -> float:
        torch.manual_seed(0)
        return near_loss(trace, batch).item()

    batch = make_batch(tokenizer, encoder(tokenizer), 1024, PLAIN, random.Random(1))
    trace = traced_forward(model, batch.ids, batch.question_starts)
    queries = trace.rotated_queries
    started = loss()
    queries[1] = torch.zeros_like(queries[1])  # an even look at everything
    blurred = loss()
    assert blurred > started
    batch.roles[:] = Role.VALUE  # all of it may be looked for
    named = loss()
    assert 0 <= named < 0.1
    queries[0] = torch.zeros_like(queries[0])
    assert loss() > named + 1  # but in layer 0 nothing may


def test_keys_are_shaped_on_plain_families_only(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    batch = make_batch(tokenizer, encoder(tokenizer), 512, {"distractors": 1.0}, random.Random(1))
    trace = traced_forward(model, batch.ids, batch.question_starts)
    assert key_loss(trace, batch).item() == 0


def test_relevance_is_what_tells_needed_values_from_others(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    probe = torch.nn.Linear(model.config.hidden_size, 1)
    plain = make_batch(tokenizer, encoder(tokenizer), 512, PLAIN, random.Random(1))
    loss, accuracy = relevance_loss(traced_forward(model, plain.ids, plain.question_starts), plain, probe)
    assert (loss.item(), accuracy) == (0, {})
    batch = make_batch(tokenizer, encoder(tokenizer), 512, {"instructed": 1.0}, random.Random(1))
    trace = traced_forward(model, batch.ids, batch.question_starts)
    needed = (batch.roles == Role.VALUE)[..., None]
    with torch.no_grad():
        probe.weight.zero_()
        probe.weight[0, 0], probe.bias[0] = 1.0, 0.0
        trace.streams[2] = torch.where(needed, 1.0, -1.0) * torch.eye(model.config.hidden_size)[0]
        told, right = relevance_loss(trace, batch, probe)
        trace.streams[2] = -trace.streams[2]
        mistaken, wrong = relevance_loss(trace, batch, probe)
    assert told < 1e-3
    assert mistaken > 10
    assert (set(right["instructed"]), set(wrong["instructed"])) == ({1.0}, {0.0})
