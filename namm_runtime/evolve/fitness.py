"""Fitness of candidates: the probability of the right answers after reading a document in a small cache.

Several candidates read the same documents in one batch: rows are candidate × document, and each row is scored
with its own candidate's parameters by the shared model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from namm_runtime.engine.memory import Memory
from namm_runtime.evolve.batches import DocumentBatch
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.model.loading import LoadedModel
from namm_runtime.policies.base import Policy
from namm_runtime.policies.full import Full
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer.checkpoint import Scorer

WORST = -6.0  # log-probability floor of an answer token, so that one outlier does not dominate the mean
LEAST_FULL = 0.05  # floor of the full cache's score, below which a ratio to it is meaningless


@dataclass(frozen=True)
class Scores:
    """Scores of each row.

    Attributes:
        score: mean over questions of the probability of the answer's tokens (geometric mean, clipped).
        exact: share of questions answered exactly.
        kept: share of the document's tokens in the cache, at the largest head of each layer.
    """

    score: Tensor
    exact: Tensor
    kept: Tensor

    @classmethod
    def cat(cls, parts: Sequence["Scores"], dim: int = 0) -> "Scores":
        return cls(
            *(torch.cat(list(same), dim) for same in zip(*(vars(p).values() for p in parts), strict=True))
        )

    def view(self, *shape: int) -> "Scores":
        return Scores(*(part.view(*shape) for part in vars(self).values()))


def evaluate_policy(
    model: LoadedModel, config: EvolutionConfig, policy: Policy, batch: DocumentBatch, candidates: int = 1
) -> Scores:
    """Read the documents under a policy and score the answers. Rows: candidate × document."""
    memory = Memory(model, policy, config.budget, config.interval, by_slot=True)
    memory.feed(batch.documents.repeat(candidates, 1))
    kept = torch.stack([layer.lengths.amax(-1) for layer in memory.cache.layers]).float().mean(0)
    if memory.evicting:
        kept /= memory.clock
    else:
        kept = torch.ones_like(kept)
    logits = memory.logits(batch.questions.repeat(candidates, 1))[:, :-1]
    wanted, target, number = (
        part.repeat(candidates, 1)[:, 1:] for part in (batch.answers, batch.questions, batch.numbers)
    )
    chosen = torch.log_softmax(logits, dim=-1).gather(-1, target.unsqueeze(-1)).squeeze(-1).clamp(min=WORST)
    wrong = (logits.argmax(-1) != target) & wanted

    def by_question(values: Tensor) -> Tensor:
        sums = torch.zeros(len(wanted), int(number.max()) + 1, device=wanted.device)
        return sums.scatter_add(1, number, values * wanted)

    tokens = by_question(torch.ones_like(chosen))
    asked = tokens > 0
    probability = (by_question(chosen) / tokens.clamp(min=1)).exp() * asked
    exact = asked & (by_question(wrong.float()) == 0)
    count = asked.sum(1)
    return Scores(probability.sum(1) / count, exact.sum(1) / count, kept)


def evaluate_population(
    model: LoadedModel, config: EvolutionConfig, scorer: Scorer, population: Tensor, batch: DocumentBatch
) -> Scores:
    """Score a population [P, size] → [P, D] each, `config.group` candidates per forward pass."""
    documents = len(batch.documents)
    parts = []
    for group in torch.split(population, config.group):
        policy = Namm(scorer, group.repeat_interleave(documents, dim=0))
        parts.append(evaluate_policy(model, config, policy, batch, len(group)).view(len(group), documents))
    return Scores.cat(parts)


def evaluate_full_cache(model: LoadedModel, config: EvolutionConfig, batch: DocumentBatch) -> Scores:
    """Scores of the full cache on the same documents → [D] each."""
    return evaluate_policy(model, config, Full(), batch)


def fitness(scores: Scores, full: Tensor, families: Sequence[str], size_weight: float) -> Tensor:
    """Mean over families of the score as a share of the full cache's, less `size_weight` · kept → [P].

    Args:
        scores: [P, D] each.
        full: [D] score of the full cache on the same documents.
        families: D names.
    """
    shares = []
    for name in dict.fromkeys(families):
        own = torch.tensor([family == name for family in families], device=full.device)
        shares.append(scores.score[:, own].mean(1) / full[own].mean().clamp(min=LEAST_FULL))
    return torch.stack(shares).mean(0) - size_weight * scores.kept.mean(1)
