"""Which slots an eviction keeps, through the policy and the cache layer that do it."""

import json
from types import SimpleNamespace

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from namm_runtime.cache import BoundedLayer
from namm_runtime.policies.base import Policy

PATTERN = "select_*.safetensors"


class Given(Policy):
    """Scores from a file, the parity keep rule."""

    name = "given"
    mode = "parity"

    def __init__(self, scores: torch.Tensor, threshold: float) -> None:
        self.given, self.threshold = scores, threshold

    def scores(self, layer: BoundedLayer) -> torch.Tensor:
        return self.given.clone()


def kept(scores: torch.Tensor, threshold: float, cap: int | None) -> BoundedLayer:
    batch, heads, tokens = scores.shape
    layer = BoundedLayer(cap, tokens, {})
    layer.update(torch.zeros(batch, heads, tokens, 1), torch.zeros(batch, heads, tokens, 1))
    Given(scores, threshold).evict(SimpleNamespace(layers=[layer]))
    layer.check_integrity()
    return layer


def cases_of(golden_file):
    """Per case: settings, scores with padding at the lowest finite value, the slots kept, their marks."""
    golden = load_file(golden_file)
    with safe_open(golden_file, "pt") as file:
        settings = json.loads(file.metadata()["meta"])["cases"]
    lowest = torch.finfo(torch.float32).min
    for index, case in enumerate(settings):
        part = {
            name: golden[f"c{index}.{name}"] for name in ("scores", "attn_mask", "retained_idxs", "new_mask")
        }
        scores = part["scores"].masked_fill(part["attn_mask"][:, None] == 0, lowest)
        yield case, scores, part["retained_idxs"].long(), part["new_mask"].bool()


def test_kept_slots(golden_file, compare):
    """Identical slots. The reference couples the rows of a batch through the smallest number of discards;
    that is what it would do to one document with all those heads, and so the rows are given here as heads."""
    for case, scores, expected, marks in cases_of(golden_file):
        threshold, cap = case["threshold_shift"], case["cache_size"]
        layer = kept(scores.flatten(0, 1).unsqueeze(0), threshold, cap)
        slots = layer.positions[:, :, : layer.used].view(expected.shape)
        compare(golden_file, "kept slots", slots, expected, tolerance=0)
        # The reference's mask runs in the order of scores and is for statistics only: it hides no token.
        kept_scores = scores.index_fill(-1, torch.tensor([scores.shape[-1] - 1]), torch.inf)
        kept_scores = kept_scores.sort(-1).values[..., -expected.shape[-1] :]
        compare(golden_file, "marks", (kept_scores >= threshold).int(), marks.int(), tolerance=0)


def test_documents_alone_keep_no_more_than_in_company(golden_file):
    """Here each row of a batch is its own document: its longest head counts, not that of its neighbours."""
    for case, scores, expected, marks in cases_of(golden_file):
        threshold, cap = case["threshold_shift"], case["cache_size"]
        together = kept(scores, threshold, cap)
        for row in range(len(scores)):
            alone = kept(scores[row : row + 1], threshold, cap)
            length = alone.used
            assert length == int(marks[row].sum(-1).max())
            assert (together.lengths[row] == length).all()
            assert torch.equal(alone.positions[0, :, :length], together.positions[row, :, :length])
            for head in range(scores.shape[1]):
                mine = alone.positions[0, head, :length]
                assert set(mine.tolist()) <= set(expected[row, head].tolist())
            if len(scores) == 1:
                assert length == expected.shape[-1]
