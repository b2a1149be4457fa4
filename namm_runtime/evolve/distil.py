"""A start point by gradient: a scorer fitted to what an all-knowing policy keeps.

A generator of documents knows which tokens its questions will need, and a scorer is differentiable although
eviction is not. So documents are read, each eviction's features are noted with the truth about every slot,
and the scorer learns to put needed slots above the others. In the first round the rest of the cache is a
random choice; in later rounds it is what the scorer so far would keep, so that it meets its own mistakes.
These rounds have the budget of serving, and each has documents twice as long as the round before: what looks
most like a fact among a thousand candidates a slot is rare, and no short document has it.

Where the scorer has a threshold, what remains is to choose how much it keeps: shifts of its bias are tried on
training documents, and the one of the best fitness is taken.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from namm_runtime.attention.spectrogram import BINS
from namm_runtime.cache import BoundedLayer
from namm_runtime.engine.memory import Memory
from namm_runtime.evolve.batches import make_exam
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.fitness import fitness, mark_full, mark_population
from namm_runtime.evolve.input_statistics import training_draw
from namm_runtime.evolve.oracle import needed_in
from namm_runtime.model.loading import LoadedModel
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer.checkpoint import Scorer

Note = tuple[Tensor, Tensor]
"""Features [B, Hkv, N, F] and truth [B, Hkv, N] of one layer at one eviction."""

_DOCUMENTS_AT_ONCE = 6
_LEARNING_RATE = 1e-2
_RIVALS = 32  # slots of a head that are not needed and have its highest scores
_NOTES_BYTES = 2 << 30  # a model of many layers and heads fills more in one document
_SHIFTS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


class _Notebook(Namm):
    """Evicts with the truth at hand and notes features and truth of every slot.

    Args:
        until: [B, T], as in `Exam`.
        random: chooses the rest of the cache where given, else the scorer does.
    """

    def __init__(self, scorer: Scorer, until: Tensor, random: torch.Generator | None) -> None:
        super().__init__(scorer)
        self.threshold = None  # a full cache shows more of what is not needed
        self.until, self.random = until, random
        self.notes: list[Note] = []

    def scores(self, layer: BoundedLayer) -> Tensor:
        truth = needed_in(layer, self.until)
        self.notes.append((self.features(layer).cpu(), truth.cpu()))
        if self.random is not None:
            return truth + torch.rand(truth.shape, generator=self.random).to(truth.device)
        own = super().scores(layer)
        return own + truth * (own.amax() - own.amin() + 1)


def distil(model: LoadedModel, config: EvolutionConfig, scorer: Scorer) -> tuple[Tensor, dict[str, Any]]:
    """Fit the scorer's parameters → [P], and how it went, for the manifest."""
    if not config.distil_spectrum:
        blind = replace(scorer, config=replace(scorer.config, spectrum_zeroed=True))
        fitted, how = distil(model, replace(config, distil_spectrum=True), blind)
        return unmoved_by_spectrum(scorer, fitted), how
    parameters = _first_guess(scorer, config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    notes: list[Note] = []
    losses = []
    read, families = {"documents": 0, "tokens": 0}, config.families(len(config.stages))
    for number in range(config.distil_rounds):
        current, regime = replace(scorer, parameters=parameters), setting(config, number)
        # One of each family at least.
        count = max(len(families), config.distil_documents * config.tokens // regime.tokens)
        draw = training_draw(config, count, -2_000_000 - number * config.distil_documents)
        for part in draw.parts(_DOCUMENTS_AT_ONCE):
            exam = make_exam(model, regime, part)
            notebook = _Notebook(current, exam.until, generator if number == 0 else None)
            Memory(model, notebook, regime.budget, regime.interval, by_slot=True).feed(exam.documents)
            notes = _fewer(notes + notebook.notes, generator)
        parameters, loss = _fit(scorer, parameters, notes, config.distil_steps, generator)
        losses.append(round(loss, 4))
        read = {"documents": read["documents"] + count, "tokens": read["tokens"] + count * regime.tokens}
    record: dict[str, Any] = {**read, "steps": config.distil_steps, "losses": losses}
    if scorer.config.threshold is not None:
        parameters, record["shift"] = _calibrate(model, config, replace(scorer, parameters=parameters))
    return parameters, record


def unmoved_by_spectrum(scorer: Scorer, parameters: Tensor) -> Tensor:
    """Parameters of a BAM fitted with the spectrum zeroed → others that give its scores on any spectrum.

    A zeroed feature still has a residual from attention. What the head reads there is read where its weight
    is largest instead, so that the spectrum's own weights can be zero.
    """
    parameters, first = parameters.clone(), scorer.config.recency_floats
    p, spectrum = scorer.config.bam.split(parameters), slice(first, first + BINS)  # views
    p["attn.qkv.weight"][spectrum] = 0
    head, out, bias = p["head.weight"][:, 0], p["attn.out.weight"], p["attn.out.bias"]
    read = head[spectrum].clone()
    head[spectrum] = 0
    other = int(head.abs().argmax())
    out[:, other] += out[:, spectrum] @ read / head[other]
    bias[other] += bias[spectrum] @ read / head[other]
    return parameters


def setting(config: EvolutionConfig, number: int) -> EvolutionConfig:
    """How long the documents of a round are, and how small its cache."""
    if number == 0:
        return config
    doublings = max(0, (config.distil_tokens // config.tokens).bit_length() - 1)
    tokens = config.tokens << min(number, doublings)
    return replace(config, tokens=tokens, budget=config.serving_budget or config.budget)


def _calibrate(model: LoadedModel, config: EvolutionConfig, scorer: Scorer) -> tuple[Tensor, float]:
    """The best of some shifts of every score → parameters, shift."""
    population = scorer.parameters.repeat(len(_SHIFTS), 1)
    scorer.config.bam.split(population)["head.bias"].add_(torch.tensor(_SHIFTS).unsqueeze(-1))  # a view
    values = []
    draw = training_draw(config, 2 * len(config.families(len(config.stages))), -3_000_000)
    for part in draw.parts(_DOCUMENTS_AT_ONCE):
        exam = make_exam(model, config, part)
        marks = mark_population(model, config, scorer, population, exam)
        full = mark_full(model, config, exam).score
        values.append(fitness(marks, full, part.families, config.size_weight))
    best = int(torch.stack(values).mean(0).argmax())
    return population[best], _SHIFTS[best]


def _fewer(notes: list[Note], generator: torch.Generator) -> list[Note]:
    """A random choice of as many as may be held at a time."""
    most = max(1, _NOTES_BYTES // max(features.nbytes for features, _ in notes))
    if len(notes) <= most:
        return notes
    chosen = torch.randperm(len(notes), generator=generator)[:most].tolist()
    return [notes[number] for number in sorted(chosen)]


def _first_guess(scorer: Scorer, seed: int) -> Tensor:
    """Small random weights; zeros are a saddle, where queries and outputs wait for each other."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for name, shape in scorer.config.network.shapes.items():
        values = torch.zeros(shape)
        if name.endswith("weight"):
            values.normal_(0.0, 0.5 / math.sqrt(shape[0]), generator=generator)
        parts.append(values.flatten())
    return torch.cat(parts)


def _fit(
    scorer: Scorer,
    start: Tensor,
    notes: list[Note],
    steps: int,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Adam with a falling step → parameters, mean loss of the last tenth."""
    network = scorer.config.network
    parameters = start.clone().requires_grad_()
    optimiser = torch.optim.AdamW([parameters], lr=_LEARNING_RATE, weight_decay=1e-4)
    late = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        features, truth = notes[int(torch.randint(len(notes), (), generator=generator))]
        loss = loss_of(network.score(parameters, features), truth)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([parameters], 1.0)
        optimiser.step()
        if step >= steps * 0.9:
            late.append(loss.item())
    return parameters.detach(), sum(late) / max(1, len(late))


def loss_of(scores: Tensor, truth: Tensor) -> Tensor:
    """Balanced cross-entropy, and how little each needed slot is above its head's strongest rivals (nats)."""
    needed = truth == 1
    loss = functional.softplus(scores[~needed]).mean()
    if not needed.any():
        return loss
    loss = loss + functional.softplus(-scores[needed]).mean()
    rivals = scores.masked_fill(needed, -math.inf).topk(min(_RIVALS, scores.shape[-1])).values
    margins = scores.unsqueeze(-1) - rivals.unsqueeze(-2)  # [B, Hkv, N, rivals]
    return 0.5 * loss + functional.softplus(-margins[needed]).mean()
