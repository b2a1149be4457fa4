"""Statistics of the inputs are those of the slots in the cache at each eviction."""

from dataclasses import replace

import pytest
import torch

from namm_runtime.attention.spectrogram import BINS
from namm_runtime.engine.memory import Memory
from namm_runtime.evolve.batches import DocumentSample, make_document_batch
from namm_runtime.evolve.input_statistics import gather
from namm_runtime.evolve.oracle import Teacher


@pytest.mark.parametrize("statistics", ["regime", "full-cache"])
def test_statistics_are_those_of_the_slots_that_were_there(bundled, small, statistics):
    """Pooled over evictions, layers and heads by hand."""
    config = replace(small, statistics=statistics)
    mean, variance = gather(bundled, config)

    class Noting(Teacher):
        def scores(self, layer):
            seen.append(layer.state["ema"][:, :, : layer.used].reshape(-1, BINS).clone())
            return super().scores(layer)

    seen: list[torch.Tensor] = []
    families = ("kv", "repeated", "distractors")
    batch = make_document_batch(
        bundled, config, DocumentSample("train", -1_000_000, tuple(families[i % 3] for i in range(12)))
    )
    budget = 64 if statistics == "regime" else 512
    Memory(bundled, Noting(batch.until, config.seed), budget, 128, by_slot=True).feed(batch.documents)
    pooled = torch.cat(seen).double()
    assert torch.allclose(mean[:BINS].double(), pooled.mean(0), rtol=1e-4)
    assert torch.allclose(variance[:BINS].double(), pooled.var(0, unbiased=False), rtol=1e-3)
