"""The search itself: CMA-ES over the scorer's flat parameters, ask and tell, the mean deployed.

At four thousand dimensions a few hundred generations cannot shape a full covariance matrix, so the separable
variant loses nothing (Ros & Hansen 2008).

A run's directory holds its start and a line a generation with every candidate's fitness. The strategy draws
the same candidates from the same seed and is told the same fitness, so reading the lines again brings it to
where it was, to the last bit.
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

from namm_runtime.errors import Refusal
from namm_runtime.evolve.batches import Draw, make_exam
from namm_runtime.evolve.config import SEEDS_A_GENERATION, EvolutionConfig
from namm_runtime.evolve.evaluators import Examiners, Here
from namm_runtime.evolve.fitness import Marks, fitness, mark_full
from namm_runtime.evolve.initial_scorer import starting_scorer
from namm_runtime.model.loading import LoadedModel
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.checkpoint import Scorer

_DOCUMENTS_AT_ONCE = 11


@dataclass(frozen=True)
class Checked:
    """The mean on the validation documents.

    Attributes:
        fitness: what is searched for: score as a share of the full cache's, less the price of its size.
        score, exact, kept: means of `Marks` over the documents.
    """

    generation: int
    fitness: float
    score: float
    exact: float
    kept: float


@dataclass(frozen=True)
class Generation:
    """What one generation brought; fitness, exact and kept are of training documents.

    Attributes:
        values: fitness of every candidate.
        documents: candidate-documents read so far by candidates.
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
    validation: Checked | None = None


class _Normal:
    """Standard normal numbers of the search's own, unlike numpy's global ones."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> np.ndarray:
        return self.generator.standard_normal(shape)


class Search:
    """One evolution run in a directory that it can be resumed from.

    Files: `start/` (the scorer it starts from), `run.json` (config, model and how the start did), `log.jsonl`
    (a line a generation).

    Raises (on construction):
        Refusal: `bad_config` where the directory holds the run of another config or model, cannot be read, or
            is in use.
    """

    def __init__(
        self, model: LoadedModel, config: EvolutionConfig, directory: Path, examiners: Examiners | None = None
    ) -> None:
        self.model, self.config, self.directory = model, config, directory
        self.examiners = examiners or Here(model, config)
        _read_run(directory, config, model)  # a wrong directory is refused whoever works in it
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = (directory / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal("bad_config", f"another process works in {directory}") from None
        began = _read_run(directory, config, model)
        families = config.families(len(config.stages))
        count = config.validation_documents
        self.validation = Draw("validation", 0, tuple(families[i % len(families)] for i in range(count)))
        self.full = self._full(self.validation)
        self.generation = self.stage = self.began = 0  # `began`: the generation at which the stage did
        self.documents = 0  # read by candidates, counted once for each
        self.log: list[dict[str, Any]] = []
        if began is None:
            self.scorer = starting_scorer(model, config)
            self.start = self._check(self.scorer.parameters)
            self.scorer.save(directory / "start")
            _write(directory / "log.jsonl", "")
            record = {"config": config.to_dict(), "revision": model.revision, "start": asdict(self.start)}
            _write(directory / "run.json", json.dumps(record, indent=1) + "\n")
        else:
            self.scorer, self.start = checkpoint.load(directory / "start"), Checked(**began["start"])
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
    def over(self) -> bool:
        return self.stage == len(self.config.stages)

    def run(self) -> Iterator[Generation]:
        """Yield generations until the stages are through."""
        self._move_on()
        while not self.over:
            report = self._generation()
            self.log.append(asdict(report))
            _write(self.directory / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in self.log))
            self._move_on()
            yield report

    def result(self) -> Scorer:
        """The mean that did best on the validation documents, with how it came to be."""
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
        draw = Draw("train", number * SEEDS_A_GENERATION, tuple(families[i % len(families)] for i in places))
        groups = torch.split(population, config.group)
        marks = Marks.joined(self.examiners.mark(self.scorer, [(group, draw) for group in groups]))
        full = self._full(draw)
        values = fitness(marks, full.score, draw.families, config.size_weight)
        self._tell(candidates, values.tolist())
        checked = None
        if number % config.validate_every == 0 or number == self._ends():
            checked = self._check(self._mean())
            self._note(checked)
        return Generation(
            number=number,
            stage=self.stage + 1,
            values=values.tolist(),
            best=float(values.max()),
            mean=float(values.mean()),
            exact=float(marks.exact.mean()),
            kept=float(marks.kept.mean()),
            full=float(full.score.mean()),
            sigma=float(self.strategy.sigma),
            documents=self.documents,
            seconds=time.perf_counter() - begun,
            validation=checked,
        )

    def _replay(self, entry: dict[str, Any]) -> None:
        """A generation that was through before the process stopped."""
        self._move_on()
        self._tell(self.strategy.ask(), entry["values"])
        if entry["validation"]:
            self._note(Checked(**entry["validation"]))
        self.log.append(entry)

    def _tell(self, candidates: list[np.ndarray], values: list[float]) -> None:
        self.strategy.tell(candidates, [-value for value in values])
        self.generation += 1
        self.documents += self.config.population * self.config.documents_of(self.stage)

    def _note(self, checked: Checked) -> None:
        if checked.fitness > self.best.fitness:
            self.best, self.best_mean = checked, self._mean()

    def _mean(self) -> Tensor:
        return torch.from_numpy(self.strategy.mean).float()

    def _ends(self) -> int:
        """The generation at which the stage ends if nothing ends it before."""
        return self.began + self.config.stages[self.stage].generations

    def _move_on(self) -> None:
        """To the next stage where this one has had its generations or its patience is spent."""
        patience = self.config.patience * self.config.validate_every
        while not self.over:
            stale = patience and self.generation - max(self.best.generation, self.began) >= patience
            if self.generation < self._ends() and not stale:
                return
            self.stage, self.began = self.stage + 1, self.generation
            if not self.over:
                self.strategy.sigma = self.config.stages[self.stage].sigma or self.strategy.sigma

    def _check(self, parameters: Tensor) -> Checked:
        tasks = [(parameters.unsqueeze(0), part) for part in self.validation.parts(_DOCUMENTS_AT_ONCE)]
        marks = Marks.joined(self.examiners.mark(self.scorer, tasks), dim=1)
        value = fitness(marks, self.full.score, self.validation.families, self.config.size_weight)
        means = {name: float(part.mean()) for name, part in vars(marks).items()}
        return Checked(self.generation, float(value), **means)

    def _full(self, draw: Draw) -> Marks:
        parts = draw.parts(_DOCUMENTS_AT_ONCE)
        return Marks.joined(
            [mark_full(self.model, self.config, make_exam(self.model, self.config, part)) for part in parts]
        )


def _read_run(directory: Path, config: EvolutionConfig, model: LoadedModel) -> dict[str, Any] | None:
    """How the run in a directory began, None where there is none."""
    try:
        record: dict[str, Any] = json.loads((directory / "run.json").read_text())
        same = EvolutionConfig.from_dict(record["config"]) == config and record["revision"] == model.revision
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refusal("bad_config", f"{directory} holds no run that can be read: {error}") from None
    if not same:
        raise Refusal(
            "bad_config", f"{directory} holds a run of another config or model; choose another directory"
        )
    return record


def _write(path: Path, content: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(content)
    partial.replace(path)


def _options(config: EvolutionConfig) -> dict[str, Any]:
    return {
        "popsize": config.population,
        "CMA_diagonal": config.covariance != "full",
        "CMA_on": 0 if config.covariance == "isotropic" else 1,
        "randn": _Normal(config.seed),
        "seed": np.nan,  # the strategy's own numbers come from `randn`
        "verbose": -9,
    }
