"""The search itself: separable CMA-ES over the scorer's flat parameters, the mean deployed.

At four thousand dimensions a few hundred generations cannot shape a full covariance matrix, so the separable
variant loses nothing (Ros & Hansen 2008). Everything needed to go on is written after each generation.
"""

import json
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cma
import numpy as np
import torch
from torch import Tensor

from namm_runtime.checkpoint import Scorer, ScorerConfig
from namm_runtime.evolve import statistics
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.fitness import Exam, make_exam, mark_population, split_exam
from namm_runtime.loading import LoadedModel
from namm_runtime.regime import Regime
from namm_runtime.spectrogram import BINS


@dataclass
class Generation:
    """What one generation brought. Scores are mean log-probabilities of answer tokens (0 is perfect)."""

    number: int
    best: float
    mean: float
    exact: float
    sigma: float
    seconds: float
    validation: float | None = None
    validation_exact: float | None = None


def starting_scorer(model: LoadedModel, config: EvolutionConfig) -> Scorer:
    """A scorer whose parameters are the start point, with its normaliser gathered."""
    mean, variance = statistics.gather(model, config)
    settings = ScorerConfig(
        recency_clip=config.recency_clip,
        threshold=None,
        key_input=config.key_input,
        key_mean=float(mean[BINS]) if config.key_input else 0.0,
        key_deviation=float(variance[BINS].sqrt()) if config.key_input else 1.0,
        spectrum_zeroed=config.spectrum_zeroed,
    )
    flat = torch.zeros(settings.bam.size)
    weights = settings.bam.split(flat)["head.weight"]  # a view
    if "key" in config.start:
        weights[-1] = -1.0  # a key like the others counts against it
    if "attention" in config.start:
        weights[settings.recency_floats] = 0.3 if "key" in config.start else 1.0
    return Scorer(
        name=config.name,
        version=config.version,
        config=settings,
        parameters=flat,
        mean=mean[:BINS],
        variance=variance[:BINS],
        regime=Regime(budget=config.budget, interval=config.interval, recency_clip=config.recency_clip),
    )


class Search:
    """One evolution run in a directory that it can be resumed from.

    Files: `state.pickle` (our own, read back only by us), `log.jsonl` (a line a generation).
    """

    def __init__(self, model: LoadedModel, config: EvolutionConfig, directory: Path) -> None:
        self.model, self.config, self.directory = model, config, directory
        directory.mkdir(parents=True, exist_ok=True)
        self.exam = make_exam(model, config, config.validation_documents, seed=0, split="validation")
        if (directory / "state.pickle").exists():
            state = pickle.loads((directory / "state.pickle").read_bytes())
            if replace(state["config"], generations=config.generations) != config:
                raise ValueError(f"{directory} holds a run of another config; choose another directory")
            self.__dict__.update(state)
            self.config = config  # a finished run may be given more generations
            return
        self.scorer = starting_scorer(model, config)
        self.strategy = cma.CMAEvolutionStrategy(
            self.scorer.parameters.double().numpy(),
            config.sigma,
            {"popsize": config.population, "CMA_diagonal": True, "seed": config.seed + 1, "verbose": -9},
        )
        self.generation = 0
        self.best = self._validate(self.scorer.parameters)
        self.best_parameters, self.best_generation = self.scorer.parameters, 0
        self.start = self.best

    def run(self) -> Iterator[Generation]:
        """Yield generations until the configured number is reached."""
        while self.generation < self.config.generations:
            begun = time.perf_counter()
            candidates = self.strategy.ask()
            population = torch.from_numpy(np.stack(candidates)).float()
            exam = make_exam(self.model, self.config, self.config.documents, self.generation + 1, "train")
            marks = mark_population(self.model, self.config, self.scorer, population, exam)
            fitness = marks.log_probability.mean(1)
            self.strategy.tell(candidates, (-fitness.double()).tolist())
            self.generation += 1
            report = Generation(
                self.generation, float(fitness.max()), float(fitness.mean()), float(marks.exact.mean()),
                float(self.strategy.sigma), 0.0,
            )  # fmt: skip
            if self.generation % self.config.validate_every == 0:
                center = torch.from_numpy(self.strategy.mean).float()
                report.validation, report.validation_exact = self._validate(center)
                if report.validation > self.best[0]:
                    self.best = (report.validation, report.validation_exact)
                    self.best_parameters, self.best_generation = center, self.generation
            report.seconds = time.perf_counter() - begun
            self._write(report)
            yield report

    def result(self) -> Scorer:
        """The mean that did best on the validation documents, with how it came to be."""
        rows = self.generation * self.config.population * self.config.documents
        provenance: dict[str, Any] = {
            "method": "separable CMA-ES, mean of the best validated generation",
            "evolution": self.config.to_dict(),
            "model": {"name": self.model.name, "revision": self.model.revision},
            "generations": self.generation,
            "deployed_generation": self.best_generation,
            "candidate_documents": rows,
            "validation": {
                "documents": self.config.validation_documents,
                "start": dict(zip(("log_probability", "exact"), self.start, strict=True)),
                "deployed": dict(zip(("log_probability", "exact"), self.best, strict=True)),
            },
            "normaliser": "training documents read under KeyDiff in the same regime",
        }
        return replace(self.scorer, parameters=self.best_parameters, provenance=provenance)

    def _validate(self, parameters: Tensor) -> tuple[float, float]:
        parts = [self._marks(parameters, part) for part in split_exam(self.exam, 24)]
        both = torch.cat(parts, dim=1).mean(dim=1)
        return float(both[0]), float(both[1])

    def _marks(self, parameters: Tensor, exam: Exam) -> Tensor:
        marks = mark_population(self.model, self.config, self.scorer, parameters.unsqueeze(0), exam)
        return torch.cat((marks.log_probability, marks.exact))

    def _write(self, report: Generation) -> None:
        kept = (
            "config",
            "scorer",
            "strategy",
            "generation",
            "best",
            "best_parameters",
            "best_generation",
            "start",
        )
        partial = self.directory / "state.partial"
        partial.write_bytes(pickle.dumps({name: getattr(self, name) for name in kept}))
        partial.replace(self.directory / "state.pickle")
        with (self.directory / "log.jsonl").open("a") as log:
            log.write(json.dumps(vars(report)) + "\n")
