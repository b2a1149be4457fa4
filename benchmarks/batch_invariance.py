"""Batch invariance: do keep decisions depend on the other rows of a batch?

The engine computes each document separately (decision 003), so its decisions cannot change. Evolution, and
anything else that batches documents in one tensor, leaves the order of summation to the matrix library. This
measures how often a decision changes as a result, and how close to the cut-off those tokens were.

`python -m benchmarks.batch_invariance '{"rows": 8, "tokens": 8192, "budget": 256}'` prints a JSON row for the
bundled model and its scorer `namm`; `benchmarks.gpu` has it on a GPU.
"""

import json
import sys

import torch
from torch import Tensor

from benchmarks.labels import Row
from namm_runtime.cache import BoundedLayer
from namm_runtime.engine.memory import Memory
from namm_runtime.machine import machine
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.checkpoint import Scorer
from namm_runtime.tasks import make_document


class Watched(Namm):
    """Records the scores of the first eviction in every layer."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__(scorer)
        self.first: dict[int, Tensor] = {}

    def scores(self, layer: BoundedLayer) -> Tensor:
        scores = super().scores(layer)
        self.first.setdefault(id(layer), scores.float().clone())
        return scores


def compare(model: LoadedModel, scorer: Scorer, ids: Tensor, budget: int, interval: int) -> Row:
    """Read ids [R, T] as one batch and row by row.

    Returns: the largest difference of a score at the first eviction; the share of keep decisions that changed
    there and in the final cache; and the largest distance of a changed one from the cut-off.
    """
    together, first_together = _read(model, scorer, ids, budget, interval)
    decisions = changed_first = changed_last = 0
    difference = gap = 0.0
    for row in range(len(ids)):
        alone, first_alone = _read(model, scorer, ids[row : row + 1], budget, interval)
        for index, layer in enumerate(alone.cache.layers):
            ours, theirs = first_together[index][row], first_alone[index][0]
            difference = max(difference, float((ours - theirs).abs().max()))
            kept = [_kept(scores, budget) for scores in (ours, theirs)]
            differing = kept[0] ^ kept[1]
            changed_first += int(differing.sum()) // 2
            if differing.any():
                cut = theirs.topk(budget, dim=-1).values[..., -1:]
                gap = max(gap, float((theirs - cut).abs()[differing].max()))
            decisions += kept[0].shape[0] * budget
            beside = together.cache.layers[index]
            for head in range(theirs.shape[0]):
                mine = set(layer.positions[0, head, : layer.start].tolist())
                other = set(beside.positions[row, head, : beside.start].tolist())
                changed_last += len(mine - other)
    return {
        "device": str(model.device),
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "rows": len(ids),
        "tokens": ids.shape[1],
        "budget": budget,
        "largest_score_difference": difference,
        "changed_at_first_eviction": changed_first / decisions,
        "changed_at_the_end": changed_last / decisions,
        "largest_gap_to_the_cut": gap,
    }


def _read(
    model: LoadedModel, scorer: Scorer, ids: Tensor, budget: int, interval: int
) -> tuple[Memory, list[Tensor]]:
    policy = Watched(scorer)
    memory = Memory(model, policy, budget, interval)
    memory.feed(ids)
    return memory, [policy.first[id(layer)] for layer in memory.cache.layers]


def _kept(scores: Tensor, budget: int) -> Tensor:
    """[H, N] → bool, the kept tokens of each head; the newest is always kept."""
    scores = scores.clone()
    scores[..., -1] = torch.inf
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, scores.topk(budget, dim=-1).indices, True)


def measure(rows: int, tokens: int, budget: int) -> Row:
    """Documents of office prose with planted facts, cut to one length."""
    model = load_model("bundled")
    scorer = checkpoint.load(checkpoint.resolve("namm").path)
    ids = []
    for seed in range(rows):
        text = make_document(8 * tokens, 30, seed=seed, split="test", filler="business").text
        ids.append(model.tokenizer(text, add_special_tokens=False)["input_ids"][:tokens])
    return compare(model, scorer, torch.tensor(ids), budget, 512) | {"machine": machine()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
