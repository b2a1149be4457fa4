"""The search: CMA-ES (ask and tell) over the scorer's flat parameters. The distribution's mean is deployed.

With four thousand dimensions, a few hundred generations cannot adapt a full covariance matrix, so the
separable variant loses nothing (Ros & Hansen 2008).

A run's directory holds the initial scorer and one log line per generation with every candidate's fitness. The
strategy samples the same candidates from the same seed, so replaying the logged fitness restores its state
bit for bit.
"""

import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cma
import numpy as np
import torch
from torch import Tensor

from namm_runtime.atomic_file import write_text
from namm_runtime.errors import Refusal
from namm_runtime.evolve.batches import DocumentSample, make_document_batch
from namm_runtime.evolve.config import SEEDS_A_GENERATION, EvolutionConfig
from namm_runtime.evolve.evaluators import Evaluator, LocalEvaluator
from namm_runtime.evolve.fitness import Scores, evaluate_full_cache, fitness
from namm_runtime.evolve.initial_scorer import build_initial_scorer
from namm_runtime.model.loading import LoadedModel
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.checkpoint import Scorer

_DOCUMENTS_AT_ONCE = 11


@dataclass(frozen=True)
class ValidationResult:
    """How the distribution's mean does on the validation documents.

    Attributes:
        fitness: the search objective: score as a share of the full cache's, less the penalty for cache size.
        score, exact, kept: means of `Scores` over the documents.
    """

    generation: int
    fitness: float
    score: float
    exact: float
    kept: float


@dataclass(frozen=True)
class Generation:
    """The report of one generation; fitness, exact and kept are measured on training documents.

    Attributes:
        values: fitness of every candidate.
        documents: documents read so far, counted once for each candidate.
        full: score of the full cache on the same documents.
    """

    number: int
    stage: int
    values: list[float]
    best: float
    mean: float
    exact: float
    kept: float
    full: float
    sigma: float
    documents: int
    seconds: float
    validation: ValidationResult | None = None


class _Normal:
    """Standard normal numbers from the search's own generator instead of numpy's global one."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> np.ndarray:
        return self.generator.standard_normal(shape)


class Search:
    """One evolution run in a directory from which it can be resumed.

    Files: `start/` (the initial scorer), `run.json` (config, model and the initial scorer's validation
    result), `log.jsonl` (one line per generation).

    Raises (on construction):
        Refusal: `bad_config` if the directory holds a run of another config or model, cannot be read, or is
            in use.
    """

    def __init__(
        self, model: LoadedModel, config: EvolutionConfig, directory: Path, evaluator: Evaluator | None = None
    ) -> None:
        self.model, self.config, self.directory = model, config, directory
        self.evaluator = evaluator or LocalEvaluator(model, config)
        _read_run(directory, config, model)  # refuse a wrong directory before waiting for its lock
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = (directory / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal("bad_config", f"another process is using {directory}") from None
        record = _read_run(directory, config, model)
        families = config.families(len(config.stages))
        count = config.validation_documents
        self.validation_sample = DocumentSample(
            "validation", 0, tuple(families[i % len(families)] for i in range(count))
        )
        self.full = self._full(self.validation_sample)
        self.generation = self.stage = 0
        self.stage_start = 0  # generation at which the current stage started
        self.documents = 0  # read so far, counted once for each candidate
        self.log: list[dict[str, Any]] = []
        if record is None:
            self.scorer = build_initial_scorer(model, config)
            self.start = self._validate(self.scorer.parameters)
            self.scorer.save(directory / "start")
            write_text(directory / "log.jsonl", "")
            record = {"config": config.to_dict(), "revision": model.revision, "start": asdict(self.start)}
            write_text(directory / "run.json", json.dumps(record, indent=1) + "\n")
        else:
            self.scorer, self.start = (
                checkpoint.load(directory / "start"),
                ValidationResult(**record["start"]),
            )
        self.best, self.best_mean = self.start, self.scorer.parameters
        self.strategy = cma.CMAEvolutionStrategy(
            self.scorer.parameters.double().numpy(), config.stages[0].sigma or config.sigma, _options(config)
        )
        try:
            for line in (directory / "log.jsonl").read_text().splitlines():
                self._replay(json.loads(line))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refusal("bad_config", f"{directory / 'log.jsonl'} cannot be read: {error!r}") from None

    @property
    def finished(self) -> bool:
        return self.stage == len(self.config.stages)

    def run(self) -> Iterator[Generation]:
        """Yield generations until the last stage has ended."""
        self._advance_stage()
        while not self.finished:
            report = self._generation()
            self.log.append(asdict(report))
            write_text(self.directory / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in self.log))
            self._advance_stage()
            yield report

    def result(self) -> Scorer:
        """The mean with the best validation fitness, with its provenance."""
        provenance: dict[str, Any] = {
            "method": f"CMA-ES ({self.config.covariance}), mean of the best validated generation",
            "evolution": self.config.to_dict(),
            "model": {"name": self.model.name, "revision": self.model.revision},
            **self.scorer.provenance,
            "generations": self.generation,
            "deployed_generation": self.best.generation,
            "candidate_documents": self.documents,
            "validation": {
                "documents": self.config.validation_documents,
                "full_cache": round(float(self.full.score.mean()), 6),
                "start": asdict(self.start),
                "deployed": asdict(self.best),
            },
        }
        return replace(self.scorer, parameters=self.best_mean, provenance=provenance)

    # -- one generation ------------------------------------------------------------------------------------

    def _generation(self) -> Generation:
        config, begun = self.config, time.perf_counter()
        candidates = self.strategy.ask()
        population = torch.from_numpy(np.stack(candidates)).float()
        families = config.families(self.stage + 1)
        number = self.generation + 1
        documents = config.documents_of(self.stage)
        places = range(number * documents, (number + 1) * documents)
        sample = DocumentSample(
            "train", number * SEEDS_A_GENERATION, tuple(families[i % len(families)] for i in places)
        )
        groups = torch.split(population, config.group)
        scores = Scores.cat(self.evaluator.evaluate(self.scorer, [(group, sample) for group in groups]))
        full = self._full(sample)
        values = fitness(scores, full.score, sample.families, config.size_weight)
        self._tell(candidates, values.tolist())
        validation = None
        if number % config.validate_every == 0 or number == self._stage_end():
            validation = self._validate(self._mean())
            self._keep_best(validation)
        return Generation(
            number=number,
            stage=self.stage + 1,
            values=values.tolist(),
            best=float(values.max()),
            mean=float(values.mean()),
            exact=float(scores.exact.mean()),
            kept=float(scores.kept.mean()),
            full=float(full.score.mean()),
            sigma=float(self.strategy.sigma),
            documents=self.documents,
            seconds=time.perf_counter() - begun,
            validation=validation,
        )

    def _replay(self, entry: dict[str, Any]) -> None:
        """Restore a generation that finished before the process stopped."""
        self._advance_stage()
        self._tell(self.strategy.ask(), entry["values"])
        if entry["validation"]:
            self._keep_best(ValidationResult(**entry["validation"]))
        self.log.append(entry)

    def _tell(self, candidates: list[np.ndarray], values: list[float]) -> None:
        self.strategy.tell(candidates, [-value for value in values])
        self.generation += 1
        self.documents += self.config.population * self.config.documents_of(self.stage)

    def _keep_best(self, validation: ValidationResult) -> None:
        if validation.fitness > self.best.fitness:
            self.best, self.best_mean = validation, self._mean()

    def _mean(self) -> Tensor:
        return torch.from_numpy(self.strategy.mean).float()

    def _stage_end(self) -> int:
        """The last generation of the current stage, unless its patience runs out first."""
        return self.stage_start + self.config.stages[self.stage].generations

    def _advance_stage(self) -> None:
        """Enter the next stage if this one has run all its generations or its patience has run out."""
        patience = self.config.patience * self.config.validate_every
        while not self.finished:
            stale = patience and self.generation - max(self.best.generation, self.stage_start) >= patience
            if self.generation < self._stage_end() and not stale:
                return
            self.stage, self.stage_start = self.stage + 1, self.generation
            if not self.finished:
                self.strategy.sigma = self.config.stages[self.stage].sigma or self.strategy.sigma

    def _validate(self, parameters: Tensor) -> ValidationResult:
        tasks = [
            (parameters.unsqueeze(0), part) for part in self.validation_sample.chunks(_DOCUMENTS_AT_ONCE)
        ]
        scores = Scores.cat(self.evaluator.evaluate(self.scorer, tasks), dim=1)
        value = fitness(scores, self.full.score, self.validation_sample.families, self.config.size_weight)
        means = {name: float(part.mean()) for name, part in vars(scores).items()}
        return ValidationResult(self.generation, float(value), **means)

    def _full(self, sample: DocumentSample) -> Scores:
        parts = sample.chunks(_DOCUMENTS_AT_ONCE)
        return Scores.cat(
            [
                evaluate_full_cache(
                    self.model, self.config, make_document_batch(self.model, self.config, part)
                )
                for part in parts
            ]
        )


def _read_run(directory: Path, config: EvolutionConfig, model: LoadedModel) -> dict[str, Any] | None:
    """`run.json` of the run in a directory, None if there is none."""
    try:
        record: dict[str, Any] = json.loads((directory / "run.json").read_text())
        before = EvolutionConfig.from_dict(record["config"])
        # A configuration may leave the dtype to the machine, and older ones do not have it.
        same = replace(before, dtype=config.dtype) == config and record["revision"] == model.revision
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refusal("bad_config", f"the run in {directory} cannot be read: {error}") from None
    if not same:
        raise Refusal(
            "bad_config", f"{directory} holds a run of another config or model; choose another directory"
        )
    return record


def _options(config: EvolutionConfig) -> dict[str, Any]:
    return {
        "popsize": config.population,
        "CMA_diagonal": config.covariance != "full",
        "CMA_on": 0 if config.covariance == "isotropic" else 1,
        "randn": _Normal(config.seed),
        "seed": np.nan,  # the strategy's own numbers come from `randn`
        "verbose": -9,
    }
