"""The configuration of an evolution run, a small TOML file."""

import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.tasks.families import FAMILIES

STARTS = ("zero", "distilled")
COVARIANCES = ("separable", "isotropic", "full")
STATISTICS = ("regime", "full-cache")
SEEDS_A_GENERATION = 1000  # documents that a generation can sample without overlapping the next generation's
_MAY_BE_ZERO = ("patience", "seed")


@dataclass(frozen=True)
class Stage:
    """Generations on these families and those of all earlier stages.

    Attributes:
        documents: documents per generation in this stage; None for the run's number.
        sigma: step size at the start of this stage; None keeps the current one. Large steps find a direction
            from zero, but then wander around the optimum.
    """

    families: tuple[str, ...]
    generations: int
    documents: int | None = None
    sigma: float | None = None

    def __post_init__(self) -> None:
        if not self.families or self.generations < 0:
            raise Refusal("bad_config", "every entry of [[stages]] needs families and generations")
        if self.documents is not None and (
            type(self.documents) is not int or not 1 <= self.documents <= SEEDS_A_GENERATION
        ):
            message = f"a stage's documents must be an integer from 1 to {SEEDS_A_GENERATION}"
            raise Refusal("bad_config", message)
        if self.sigma is not None and not self.sigma > 0:
            raise Refusal("bad_config", "a stage's sigma must be greater than 0")


@dataclass(frozen=True)
class EvolutionConfig:
    """Everything a run depends on; two runs of the same config on the same machine give the same scorer.

    Attributes:
        key_input, place_input, spectrum_zeroed, recency_clip, threshold: as in `ScorerConfig`.
        start: `zero`, every parameter 0 except the bias; or `distilled`, fitted by gradient descent to an
            oracle policy (`namm_runtime.evolve.distil`).
        initial_bias: the score that `zero` gives every token. It must be above the threshold, or the first
            random step would evict everything.
        statistics: which cache the spectrum's normaliser is gathered in: the search's own `regime`, or the
            `full-cache` as in the paper.
        budget, interval, tokens: slots per head, tokens between evictions, and tokens of a search document;
            `tokens` is a multiple of `interval`.
        serving_budget: slots per head that the manifest recommends for serving; None for the search's own.
        dtype: what the model computes in, as in `load_model`; a run records the dtype that `auto` stood for.
        relevant: share of the budget that a document's relevant tokens may take at most.
        questions: maximum number of questions per document.
        stages: sets of task families, added one after the other.
        documents: documents per generation, the same for every candidate (common random numbers).
        covariance: shape of the search distribution's covariance (`full` needs memory and time quadratic in
            the number of parameters).
        group: candidates per forward pass. Results depend on it in the last bits, but not on how the work is
            distributed otherwise.
        size_weight: penalty on `kept`, the share of a document's tokens kept. Without a threshold all
            candidates keep equally many tokens, and it has no effect.
        validate_every: generations between validations of the mean on a fixed set of documents.
        patience: validations without improvement after which a stage ends early; 0 for never.
        distil_spectrum: whether distillation fits the spectrum's weights too; if not, the initial scorer
            ignores the spectrum, and the search may learn to use it.
        distil_documents, distil_rounds, distil_steps: see `namm_runtime.evolve.distil`. The number of
            documents is that of the first round; later rounds read fewer, as theirs are longer.
        distil_tokens: maximum length of distillation documents.
    """

    name: str
    version: str
    stages: tuple[Stage, ...]
    model: str = "bundled"
    dtype: str = "auto"
    key_input: bool = False
    place_input: bool = False
    spectrum_zeroed: bool = False
    recency_clip: int | None = 8192
    threshold: float | None = None
    start: str = "zero"
    initial_bias: float = 1.0
    statistics: str = "regime"
    budget: int = 128
    interval: int = 512
    serving_budget: int | None = None
    tokens: int = 4096
    relevant: float = 0.6
    questions: int = 8
    documents: int = 4
    population: int = 16
    sigma: float = 0.05
    covariance: str = "separable"
    group: int = 4
    size_weight: float = 0.0
    validate_every: int = 5
    validation_documents: int = 33
    patience: int = 0
    distil_spectrum: bool = True
    distil_documents: int = 96
    distil_tokens: int = 24_576
    distil_rounds: int = 3
    distil_steps: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("start", STARTS),
            ("covariance", COVARIANCES),
            ("statistics", STATISTICS),
        ):
            if getattr(self, name) not in known:
                raise Refusal("bad_config", f"{name} must be one of {', '.join(known)}")
        if self.interval < 16 or self.tokens % self.interval or self.interval % 16:
            raise Refusal(
                "bad_config", "tokens must be a multiple of interval, and interval a multiple of 16"
            )
        whole = [field.name for field in fields(self) if field.type == "int" or field.type is int]
        wrong = [name for name in whole if type(getattr(self, name)) is not int]
        wrong += [
            name
            for name in whole
            if name not in _MAY_BE_ZERO and name not in wrong and getattr(self, name) < 1
        ]
        wrong += [name for name in ("patience",) if name not in wrong and self.patience < 0]
        if wrong or self.population < 4 or self.documents > SEEDS_A_GENERATION:
            raise Refusal(
                "bad_config",
                f"{', '.join(wrong) or 'population or documents'}: must be positive integers, population at "
                f"least 4, documents at most {SEEDS_A_GENERATION}",
            )
        if not self.sigma > 0 or not 0 < self.relevant <= 1:
            raise Refusal("bad_config", "sigma must be greater than 0, and relevant in (0, 1]")
        if not self.stages:
            raise Refusal("bad_config", "a run needs [[stages]] with families and generations")
        unknown = set(self.families(len(self.stages))) - set(FAMILIES)
        if unknown:
            raise Refusal(
                "bad_config",
                f"unknown families: {', '.join(sorted(unknown))}; choose from {', '.join(FAMILIES)}",
            )
        if self.threshold is not None and self.start == "zero" and self.initial_bias <= self.threshold:
            raise Refusal("bad_config", "initial_bias must be above threshold, or nothing would be kept")

    @property
    def generations(self) -> int:
        """Total over all stages, if none ends early."""
        return sum(stage.generations for stage in self.stages)

    def documents_of(self, stage: int) -> int:
        """Documents per generation in a stage, counted from 0."""
        return self.stages[stage].documents or self.documents

    def families(self, stages: int) -> tuple[str, ...]:
        """The families of the first `stages` stages, without duplicates."""
        return tuple(dict.fromkeys(name for stage in self.stages[:stages] for name in stage.families))

    @classmethod
    def read(cls, path: Path) -> "EvolutionConfig":
        """Read a TOML file.

        Raises:
            Refusal: `bad_config`, naming what is wrong.
        """
        try:
            values: dict[str, Any] = tomllib.loads(path.read_text())
            unknown = values.keys() - {field.name for field in fields(cls)}
            if unknown:
                raise Refusal("bad_config", f"{path.name}: unknown entries {', '.join(sorted(unknown))}")
            return cls.from_dict(values)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError, AttributeError) as error:
            raise Refusal("bad_config", f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EvolutionConfig":
        """The inverse of `to_dict`. Raises TypeError for unknown entries."""
        stages = [Stage(**stage) for stage in values.get("stages", ())]
        tuples = tuple(replace(stage, families=tuple(stage.families)) for stage in stages)
        return cls(**{**values, "stages": tuples})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
