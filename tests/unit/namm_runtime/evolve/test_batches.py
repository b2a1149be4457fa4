"""Document batches: exact lengths, reproducible samples, and how long each token is needed."""

from dataclasses import replace

import torch

from namm_runtime.evolve.batches import FOREVER, DocumentSample, make_document_batch
from namm_runtime.tasks.families import FAMILIES


def sample(*families, split="train", seed=5):
    return DocumentSample(split, seed, families)


def test_documents_are_as_long_as_asked_and_fit_the_cache(bundled, small):
    config = replace(small, tokens=1024, interval=256, budget=128)
    batch = make_document_batch(bundled, config, sample(*FAMILIES))
    assert batch.documents.shape == (len(FAMILIES), 1024)
    needed = (batch.until == FOREVER).sum(1)
    assert (needed > 1).all()
    assert (needed <= config.relevant * config.budget + 1).all()  # and the opening token
    assert batch.answers.any(1).all()
    assert batch.questions.shape[1] <= config.interval


def test_a_draw_is_the_same_everywhere_and_in_parts(bundled, small):
    whole = sample("kv", "repeated", "kv")
    batch = make_document_batch(bundled, small, whole)
    parts = [make_document_batch(bundled, small, part) for part in whole.chunks(2)]
    assert torch.equal(torch.cat([part.documents for part in parts]), batch.documents)
    other = make_document_batch(bundled, small, sample("kv", "repeated", "kv", split="validation"))
    assert not torch.equal(other.documents, batch.documents)


def test_a_value_is_needed_until_it_is_stated_anew(bundled, small):
    config = replace(small, tokens=1024, interval=256, budget=256)
    batch = make_document_batch(bundled, config, sample("overwritten"))
    until, ids = batch.until[0].tolist(), batch.documents[0].tolist()
    passing = sorted({end for end in until if 0 < end < FOREVER})
    assert passing
    for end in passing:
        first = until.index(end)
        old, new = (bundled.tokenizer.decode(ids[:at]).rpartition("\n")[2].split() for at in (first, end))
        assert old[:2] == new[:2], "the same record"
        assert old[2] < new[2], "by a later letter"
        assert first < end
        assert until[end] > end
