"""How well candidates remember: the probability of the right answers after reading in a small cache.

Several candidates read the same documents in one batch: rows are candidate × document, each row scored with
its own candidate's parameters, the model shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from namm_runtime.engine.memory import Memory
from namm_runtime.evolve.batches import Exam
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.model.loading import LoadedModel
from namm_runtime.policies.base import Policy
from namm_runtime.policies.full import Full
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer.checkpoint import Scorer

WORST = -6.0  # log-probability floor of one answer token, so that a hopeless one does not drown the rest
LEAST_FULL = 0.05  # a full cache that scores below this says nothing about a task


@dataclass(frozen=True)
class Marks:
    """Per row.

    Attributes:
        score: mean over questions of the probability of the answer's tokens (geometric mean, clipped).
        exact: share of questions answered exactly.
        kept: share of the document's tokens in the cache, at the largest head of each layer.
    """

    score: Tensor
    exact: Tensor
    kept: Tensor

    @classmethod
    def joined(cls, parts: Sequence["Marks"], dim: int = 0) -> "Marks":
        return cls(
            *(torch.cat(list(same), dim) for same in zip(*(vars(p).values() for p in parts), strict=True))
        )

    def view(self, *shape: int) -> "Marks":
        return Marks(*(part.view(*shape) for part in vars(self).values()))


def sit(
    model: LoadedModel, config: EvolutionConfig, policy: Policy, exam: Exam, candidates: int = 1
) -> Marks:
    """Read the documents under a policy and mark the answers. Rows: candidate × document."""
    memory = Memory(model, policy, config.budget, config.interval, by_slot=True)
    memory.feed(exam.documents.repeat(candidates, 1))
    kept = torch.stack([layer.lengths.amax(-1) for layer in memory.cache.layers]).float().mean(0)
    if memory.evicting:
        kept /= memory.clock
    else:
        kept = torch.ones_like(kept)
    logits = memory.logits(exam.questions.repeat(candidates, 1))[:, :-1]
    wanted, target, number = (
        part.repeat(candidates, 1)[:, 1:] for part in (exam.answers, exam.questions, exam.numbers)
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
    return Marks(probability.sum(1) / count, exact.sum(1) / count, kept)


def mark_population(
    model: LoadedModel, config: EvolutionConfig, scorer: Scorer, population: Tensor, exam: Exam
) -> Marks:
    """Mark population [P, size] → [P, D] each, `config.group` candidates in one forward pass."""
    documents = len(exam.documents)
    parts = []
    for group in torch.split(population, config.group):
        policy = Namm(scorer, group.repeat_interleave(documents, dim=0))
        parts.append(sit(model, config, policy, exam, len(group)).view(len(group), documents))
    return Marks.joined(parts)


def mark_full(model: LoadedModel, config: EvolutionConfig, exam: Exam) -> Marks:
    """What the full cache scores on the same prompts → [D] each."""
    return sit(model, config, Full(), exam)


def fitness(marks: Marks, full: Tensor, families: Sequence[str], size_weight: float) -> Tensor:
    """Mean over families of the score as a share of the full cache's, less `size_weight` · kept → [P].

    Args:
        marks: [P, D] each.
        full: [D] score of the full cache on the same documents.
        families: D names.
    """
    shares = []
    for name in dict.fromkeys(families):
        own = torch.tensor([family == name for family in families], device=full.device)
        shares.append(marks.score[:, own].mean(1) / full[own].mean().clamp(min=LEAST_FULL))
    return torch.stack(shares).mean(0) - size_weight * marks.kept.mean(1)
