"""The scorer that a search starts from: its shape, its normaliser and its initial parameters."""

from dataclasses import replace

import torch

from namm_runtime.attention.spectrogram import BINS
from namm_runtime.evolve import input_statistics
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.distil import distil
from namm_runtime.model.loading import LoadedModel
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig
from namm_runtime.scorer.regime import Regime, Serving


def build_initial_scorer(model: LoadedModel, config: EvolutionConfig) -> Scorer:
    """Gather the normaliser, then set or distil the parameters; `provenance` records how."""
    mean, variance = input_statistics.gather(model, config)
    settings = ScorerConfig(
        recency_clip=config.recency_clip,
        threshold=config.threshold,
        key_input=config.key_input,
        key_mean=float(mean[BINS]) if config.key_input else 0.0,
        key_deviation=float(variance[BINS].sqrt()) if config.key_input else 1.0,
        place_input=config.place_input,
        spectrum_zeroed=config.spectrum_zeroed,
    )
    flat = torch.zeros(settings.network.size)
    settings.bam.split(flat)["head.bias"].fill_(config.initial_bias)  # a view
    scorer = Scorer(
        name=config.name,
        version=config.version,
        config=settings,
        parameters=flat,
        mean=mean[:BINS],
        variance=variance[:BINS],
        regime=Regime(budget=config.budget, interval=config.interval, recency_clip=config.recency_clip),
        serving=Serving(budget=config.serving_budget),
    )
    parameters, record = (flat, {}) if config.start == "zero" else distil(model, config, scorer)
    return replace(scorer, parameters=parameters, provenance={"start": {"from": config.start, **record}})
