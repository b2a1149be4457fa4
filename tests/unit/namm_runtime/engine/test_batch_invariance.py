"""Whether the other rows of a batch change a document, and how `compare` shows it."""

import torch

from benchmarks.batch_invariance import compare


def test_a_row_alone_equals_itself(model, make_scorer, ids):
    row = compare(model, make_scorer(threshold=None), ids[:1], 96, 256)
    assert row["largest_score_difference"] == row["changed_at_the_end"] == 0


def test_rows_in_one_tensor_differ_by_rounding(model, make_scorer, ids):
    together = torch.cat((ids, ids.flip(1), ids.roll(1, 1)))
    row = compare(model, make_scorer(threshold=None), together, 96, 256)
    assert row["rows"] == 3
    assert row["largest_score_difference"] < 1e-3
    assert row["changed_at_first_eviction"] < 0.01
    assert row["largest_gap_to_the_cut"] < 1e-3


def test_a_changed_decision_is_counted(model, make_scorer, ids, monkeypatch):
    """Scores that depend on the batch by more than rounding are detected."""
    from benchmarks import batch_invariance

    class Swayed(batch_invariance.Watched):
        def scores(self, layer):
            scores = super().scores(layer)
            batch_effect = 1e-2 * (scores.shape[0] - 1)
            swayed = scores + batch_effect * torch.rand(
                scores.shape, generator=torch.Generator().manual_seed(0)
            )
            self.first[id(layer)] = swayed
            return swayed

    monkeypatch.setattr(batch_invariance, "Watched", Swayed)
    row = compare(model, make_scorer(threshold=None), torch.cat((ids, ids.flip(1))), 96, 256)
    assert row["changed_at_first_eviction"] > 0
    assert 0 < row["largest_gap_to_the_cut"] <= 2e-2
