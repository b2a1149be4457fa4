"""An initial scorer fitted by gradient descent to the decisions of an oracle policy.

The document generator knows which tokens its questions will need, and a scorer is differentiable although
eviction is not. So documents are read, the features of every slot are recorded at each eviction together with
whether the slot is needed, and the scorer is trained to rank needed slots above the others. In the first
round the rest of the cache is chosen at random; in later rounds the current scorer chooses it, so that it is
trained on its own mistakes (as in DAgger). Later rounds use the serving budget, and each reads documents
twice as long as the round before: the slots that look most like facts are rare, and short documents do not
contain them.

If the scorer has a threshold, its bias is calibrated last: several shifts are tried on training documents,
and the one with the best fitness is taken.
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
from namm_runtime.evolve.batches import make_document_batch
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.fitness import evaluate_full_cache, evaluate_population, fitness
from namm_runtime.evolve.input_statistics import training_sample
from namm_runtime.evolve.oracle import needed_in
from namm_runtime.model.loading import LoadedModel
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer.checkpoint import Scorer

Example = tuple[Tensor, Tensor]
"""Features [B, Hkv, N, F] and labels [B, Hkv, N] (1: needed) of one layer at one eviction."""

_DOCUMENTS_AT_ONCE = 6
_LEARNING_RATE = 1e-2
_RIVALS = 32  # highest-scored slots of a head that are not needed
_EXAMPLES_BYTES = 2 << 30  # a model with many layers and heads would exceed this within one document
_SHIFTS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


class _EvictionRecorder(Namm):
    """Keeps every needed slot, and records the features and label of every slot at each eviction.

    Args:
        until: [B, T], as in `DocumentBatch`.
        random: fills the rest of the cache at random; None fills it by the scorer's own scores.
    """

    def __init__(self, scorer: Scorer, until: Tensor, random: torch.Generator | None) -> None:
        super().__init__(scorer)
        self.threshold = None  # a full cache gives more negative examples
        self.until, self.random = until, random
        self.examples: list[Example] = []

    def scores(self, layer: BoundedLayer) -> Tensor:
        truth = needed_in(layer, self.until)
        self.examples.append((self.features(layer).cpu(), truth.cpu()))
        if self.random is not None:
            return truth + torch.rand(truth.shape, generator=self.random).to(truth.device)
        own = super().scores(layer)
        return own + truth * (own.amax() - own.amin() + 1)


def distil(model: LoadedModel, config: EvolutionConfig, scorer: Scorer) -> tuple[Tensor, dict[str, Any]]:
    """Fit the scorer's parameters → [P], and a record of the fit for the manifest."""
    if not config.distil_spectrum:
        blind = replace(scorer, config=replace(scorer.config, spectrum_zeroed=True))
        fitted, how = distil(model, replace(config, distil_spectrum=True), blind)
        return without_spectrum(scorer, fitted), how
    parameters = _random_parameters(scorer, config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    examples: list[Example] = []
    losses = []
    read, families = {"documents": 0, "tokens": 0}, config.families(len(config.stages))
    for number in range(config.distil_rounds):
        current, regime = replace(scorer, parameters=parameters), round_config(config, number)
        # One of each family at least.
        count = max(len(families), config.distil_documents * config.tokens // regime.tokens)
        sample = training_sample(config, count, -2_000_000 - number * config.distil_documents)
        for chunk in sample.chunks(_DOCUMENTS_AT_ONCE):
            batch = make_document_batch(model, regime, chunk)
            recorder = _EvictionRecorder(current, batch.until, generator if number == 0 else None)
            Memory(model, recorder, regime.budget, regime.interval, by_slot=True).feed(batch.documents)
            examples = _subsample(examples + recorder.examples, generator)
        parameters, loss = _fit(scorer, parameters, examples, config.distil_steps, generator)
        losses.append(round(loss, 4))
        read = {"documents": read["documents"] + count, "tokens": read["tokens"] + count * regime.tokens}
    record: dict[str, Any] = {**read, "steps": config.distil_steps, "losses": losses}
    if scorer.config.threshold is not None:
        parameters, record["shift"] = _calibrate(model, config, replace(scorer, parameters=parameters))
    return parameters, record


def without_spectrum(scorer: Scorer, parameters: Tensor) -> Tensor:
    """Rewrite a BAM that was fitted on a zeroed spectrum so that it gives the same scores on any spectrum.

    A zeroed feature still receives a residual from attention. The head's weights on those residuals are moved
    to the feature with its largest weight, so that all weights on the spectrum itself can be zero.
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


def round_config(config: EvolutionConfig, number: int) -> EvolutionConfig:
    """The config of one round: longer documents and the serving budget from the second round on."""
    if number == 0:
        return config
    doublings = max(0, (config.distil_tokens // config.tokens).bit_length() - 1)
    tokens = config.tokens << min(number, doublings)
    return replace(config, tokens=tokens, budget=config.serving_budget or config.budget)


def _calibrate(model: LoadedModel, config: EvolutionConfig, scorer: Scorer) -> tuple[Tensor, float]:
    """Add each of `_SHIFTS` to the bias and return the best → parameters, shift."""
    population = scorer.parameters.repeat(len(_SHIFTS), 1)
    scorer.config.bam.split(population)["head.bias"].add_(torch.tensor(_SHIFTS).unsqueeze(-1))  # a view
    values = []
    sample = training_sample(config, 2 * len(config.families(len(config.stages))), -3_000_000)
    for chunk in sample.chunks(_DOCUMENTS_AT_ONCE):
        batch = make_document_batch(model, config, chunk)
        scores = evaluate_population(model, config, scorer, population, batch)
        full = evaluate_full_cache(model, config, batch).score
        values.append(fitness(scores, full, chunk.families, config.size_weight))
    best = int(torch.stack(values).mean(0).argmax())
    return population[best], _SHIFTS[best]


def _subsample(examples: list[Example], generator: torch.Generator) -> list[Example]:
    """A random subset that fits into `_EXAMPLES_BYTES`."""
    most = max(1, _EXAMPLES_BYTES // max(features.nbytes for features, _ in examples))
    if len(examples) <= most:
        return examples
    chosen = torch.randperm(len(examples), generator=generator)[:most].tolist()
    return [examples[number] for number in sorted(chosen)]


def _random_parameters(scorer: Scorer, seed: int) -> Tensor:
    """Small random weights. All zeros would be a saddle point: queries and outputs have no gradient there."""
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
    examples: list[Example],
    steps: int,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """AdamW with cosine decay → parameters, mean loss over the last tenth of the steps."""
    network = scorer.config.network
    parameters = start.clone().requires_grad_()
    optimiser = torch.optim.AdamW([parameters], lr=_LEARNING_RATE, weight_decay=1e-4)
    late = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        features, truth = examples[int(torch.randint(len(examples), (), generator=generator))]
        loss = ranking_loss(network.score(parameters, features), truth)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([parameters], 1.0)
        optimiser.step()
        if step >= steps * 0.9:
            late.append(loss.item())
    return parameters.detach(), sum(late) / max(1, len(late))


def ranking_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Balanced cross-entropy plus a pairwise ranking loss against each head's strongest rivals (nats)."""
    needed = truth == 1
    loss = functional.softplus(scores[~needed]).mean()
    if not needed.any():
        return loss
    loss = loss + functional.softplus(-scores[needed]).mean()
    rivals = scores.masked_fill(needed, -math.inf).topk(min(_RIVALS, scores.shape[-1])).values
    margins = scores.unsqueeze(-1) - rivals.unsqueeze(-2)  # [B, Hkv, N, rivals]
    return 0.5 * loss + functional.softplus(-margins[needed]).mean()
