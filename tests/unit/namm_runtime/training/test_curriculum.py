"""Training batches: their lengths, what questions see of a document, and clutter."""

import random

import torch
from transformers import PreTrainedTokenizerFast

from namm_runtime.tasks.story import Role
from namm_runtime.tasks.suite import encoder
from namm_runtime.training.curriculum import LENGTHS, TOKENS_PER_BATCH, draw_length, make_batch
from namm_runtime.training.shapes import WINDOW
from tests.support.untrained import EVEN, PLAIN


def test_what_a_batch_keeps_while_it_reads_is_instructions_junk_and_mistakes(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rng, views, junk, apart = random.Random(3), 0, 0, 0
    while views < 8:
        batch = make_batch(tokenizer, encoder(tokenizer), 1024, PLAIN, rng)
        if batch.view is None:
            assert not batch.junk.any()
        elif batch.view.by != "random":
            assert batch.view.kept[(batch.roles == Role.VALUE) | batch.junk].all()
            assert batch.view.before is not None
            if not torch.equal(batch.view.before, batch.view.kept):
                assert torch.equal(batch.view.before, (batch.roles == Role.HEADER) | batch.junk)
                apart += 1
            assert (batch.roles[batch.junk] == Role.FILLER).all()
            assert (batch.ids[:, 0] == tokenizer.bos_token_id).all()
            assert not batch.junk[:, 513:].any()
            views, junk = views + 1, junk + int(batch.junk.sum())
    assert junk > 0
    assert 0 < apart < views


def test_a_sequence_longer_than_a_batch_is_a_batch_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = make_batch(tokenizer, encoder(tokenizer), 2 * TOKENS_PER_BATCH, EVEN, random.Random(1))
    assert batch.ids.shape == (1, 2 * TOKENS_PER_BATCH)


def test_what_questions_see_holds_all_that_they_need(tokenizer: PreTrainedTokenizerFast) -> None:
    batches = [make_batch(tokenizer, encoder(tokenizer), 512, EVEN, random.Random(i)) for i in range(8)]
    shrunken = [batch for batch in batches if batch.view is not None]
    assert 0 < len(shrunken) < len(batches)
    for batch in shrunken:
        assert batch.view is not None
        assert batch.view.kept[(batch.roles == Role.VALUE) | (batch.roles == Role.HEADER)].all()
        assert batch.view.kept.float().mean() + batch.view.share < 0.6
    assert any(batch.positions[-1] > 512 for batch in batches)
    assert all((batch.positions.diff() > 0).all() and batch.positions[-1] < WINDOW for batch in batches)


def test_lengths_grow_with_the_training() -> None:
    rng = random.Random(0)
    assert {draw_length(0.0, rng) for _ in range(50)} == {64}
    assert {draw_length(0.02, rng) for _ in range(50)} == {64, 128}
    assert {draw_length(0.99, rng) for _ in range(500)} == {length for length, _ in LENGTHS}
