"""One run of evolution, as a small TOML file."""

import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.tasks.families import FAMILIES

STARTS = ("zero", "distilled")
COVARIANCES = ("separable", "isotropic", "full")
STATISTICS = ("regime", "full-cache")
SEEDS_A_GENERATION = 1000  # so many documents a generation can draw without meeting another generation's
_MAY_BE_ZERO = ("patience", "seed")


@dataclass(frozen=True)
class Stage:
    """Generations on these families and those of the stages before.

    Attributes:
        documents: in a generation of this stage; None for the run's number.
        sigma: the step size that it begins with; None for what the search has come to. From zero, large steps
            find the way and then wander about it.
    """

    families: tuple[str, ...]
    generations: int
    documents: int | None = None
    sigma: float | None = None

    def __post_init__(self) -> None:
        if not self.families or self.generations < 0:
            raise Refusal("bad_config", "a run needs [[stages]] with families and generations")
        if self.documents is not None and (
            type(self.documents) is not int or not 1 <= self.documents <= SEEDS_A_GENERATION
        ):
            said = f"a stage's documents should be a whole number from 1 to {SEEDS_A_GENERATION}"
            raise Refusal("bad_config", said)
        if self.sigma is not None and not self.sigma > 0:
            raise Refusal("bad_config", "a stage's sigma must be above 0")


@dataclass(frozen=True)
class EvolutionConfig:
    """Everything a run depends on; two runs of one config on one machine give the same scorer.

    Attributes:
        key_input, place_input, spectrum_zeroed, recency_clip, threshold: as in `ScorerConfig`.
        start: `zero`, every parameter 0 but the bias; or `distilled`, fitted by gradient to what an
            all-knowing policy keeps (`namm_runtime.evolve.distil`).
        initial_bias: the score that `zero` gives to everything; with a threshold of 0 it has to be above, or
            the first random step evicts all there is.
        statistics: which cache the spectrum's normaliser is gathered from: that of the search's own `regime`,
            or the `full-cache`, as the paper's.
        budget, interval, tokens: slots a head, tokens between evictions, and of a search document; `tokens`
            is a multiple of `interval`.
        serving_budget: slots a head that the manifest names for serving; None leaves it at the search's own.
        relevant: share of the budget that what matters in a document may take.
        questions: asked of each document at most.
        stages: task sets, added one after the other.
        documents: in a generation, the same for every candidate (common random numbers).
        covariance: of the search distribution (`full` takes memory and time by the square of parameters).
        group: candidates in one forward pass. Results depend on it in the last bits, and on nothing else of
            how the work is spread.
        size_weight: what the fitness loses for each 1 of `kept`, the share of a document's tokens kept.
            Without a threshold all candidates keep equally many and it changes nothing.
        validate_every: generations between checks of the mean on fixed validation documents.
        patience: checks without a better mean that end a stage early; 0 for never.
        distil_spectrum: whether the spectrum is fitted too; if not, the start does not look at it and the
            search may learn to.
        distil_documents, distil_rounds, distil_steps: see `namm_runtime.evolve.distil`; documents of the
            first round, of which later rounds read fewer, as theirs are longer.
        distil_tokens: of the longest documents of distillation, at most.
    """

    name: str
    version: str
    stages: tuple[Stage, ...]
    model: str = "bundled"
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
            raise Refusal("bad_config", "tokens must be a multiple of interval, and interval of 16")
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
                f"{', '.join(wrong) or 'population or documents'}: whole numbers from 1, population from 4, "
                f"documents up to {SEEDS_A_GENERATION}",
            )
        if not self.sigma > 0 or not 0 < self.relevant <= 1:
            raise Refusal("bad_config", "sigma must be above 0, and relevant above 0 and at most 1")
        if not self.stages:
            raise Refusal("bad_config", "a run needs [[stages]] with families and generations")
        unknown = set(self.families(len(self.stages))) - set(FAMILIES)
        if unknown:
            raise Refusal(
                "bad_config",
                f"no family is called {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}",
            )
        if self.threshold is not None and self.start == "zero" and self.initial_bias <= self.threshold:
            raise Refusal("bad_config", "initial_bias must be above the threshold, or nothing would be kept")

    @property
    def generations(self) -> int:
        """Of all stages, where none ends early."""
        return sum(stage.generations for stage in self.stages)

    def documents_of(self, stage: int) -> int:
        """In a generation of that stage, counted from 0."""
        return self.stages[stage].documents or self.documents

    def families(self, stages: int) -> tuple[str, ...]:
        """Of the first so many stages, each once."""
        return tuple(dict.fromkeys(name for stage in self.stages[:stages] for name in stage.families))

    @classmethod
    def read(cls, path: Path) -> "EvolutionConfig":
        """Raises Refusal `bad_config` naming what is wrong."""
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
        """The inverse of `to_dict`. Raises TypeError for entries that do not exist."""
        stages = [Stage(**stage) for stage in values.get("stages", ())]
        tuples = tuple(replace(stage, families=tuple(stage.families)) for stage in stages)
        return cls(**{**values, "stages": tuples})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
