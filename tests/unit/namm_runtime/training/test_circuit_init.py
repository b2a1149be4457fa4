"""The structured initialisation already finds and copies stated values."""

import random
from itertools import chain
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from namm_runtime.tasks.facts import FIELDS
from namm_runtime.tasks.suite import encoder
from namm_runtime.training import train
from namm_runtime.training.curriculum import make_batch
from namm_runtime.training.losses import (
    answer_loss,
)
from namm_runtime.training.shapes import SHAPES
from namm_runtime.training.traced_forward import traced_forward
from tests.support.untrained import PLAIN, build


@pytest.mark.parametrize(("shape", "least"), [("main", 0.3), ("deep", 0.1)])
def test_the_start_already_copies_a_stated_value(
    tokenizer: PreTrainedTokenizerFast, shape: str, least: float
) -> None:
    batch = make_batch(tokenizer, encoder(tokenizer), 64, PLAIN, random.Random(0))
    with torch.no_grad():
        trace = traced_forward(build(tokenizer, shape), batch.ids, batch.question_starts)
        _, accuracy = answer_loss(build(tokenizer, shape), trace, batch)
    assert len(accuracy) == len(batch.ids)
    assert sum(accuracy) / len(accuracy) > least  # untrained; chance is 1 in 2,048


@pytest.mark.parametrize("shape", SHAPES)
def test_the_start_looks_where_a_predecessor_was_said_before(
    tokenizer: PreTrainedTokenizerFast, shape: str
) -> None:
    model, found = build(tokenizer, shape), 0
    for field in FIELDS:
        lines = (f"\nKeep the {field} of each.", " Nobody came, and", f"\nInvoice 4821 {field}: 93")
        ids = torch.tensor([[tokenizer.bos_token_id, *chain.from_iterable(encoder(tokenizer)(lines))]])
        (named,) = encoder(tokenizer)([f" {field}"])[0]
        with torch.no_grad():
            trace = traced_forward(model, ids, torch.tensor([ids.shape[1]]))
        # From the value's first token the field is two places back, and the second head compares that.
        scores = (trace.rotated_queries[1][0, 1, -1:] @ trace.rotated_keys[1][0, 0].T)[0]
        found += ids[0].tolist().index(named) in scores.topk(3).indices.tolist()
    assert found >= len(FIELDS) - 2  # names of 16 numbers are alike by chance now and then


def test_no_token_drifts_from_the_constant_that_layer_0_goes_by(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = build(tokenizer, "main")
    with torch.no_grad():
        model.model.embed_tokens.weight[7, 0] = -1.0  # as training leaves it that holds nothing
    run = train.Run(model, tokenizer, 0, 10_000, tmp_path)
    for _ in range(3):
        run._update(make_batch(tokenizer, run.encode, 128, PLAIN, run.rng))
    assert torch.equal(model.model.embed_tokens.weight[:, 0], torch.ones(len(tokenizer)))
    assert model.model.norm.weight[0] == 0
