"""One run of evolution, as a small TOML file."""

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.tasks import FillerKind

STARTS = ("zero", "key-diversity", "attention-mass", "key-and-attention")


@dataclass(frozen=True)
class EvolutionConfig:
    """Everything a run depends on; two runs of one config on one build give the same scorer.

    Attributes:
        start: `zero` scores every token alike (and, with its bias, keeps all that fits the budget);
            `key-diversity` ranks tokens as KeyDiff does, which needs `key_input`; `attention-mass` by their
            recent attention, the spectrum's lowest bin; `key-and-attention` by the first plus a little of
            the second.
        budget, interval: slots a head and tokens between evictions, the regime of the search.
        tokens: length of a search document, a multiple of `interval`; several evictions fit into it.
        facts, questions: planted in and asked of each document.
        documents: in a generation, the same for every candidate (common random numbers).
        population, sigma, generations: of the evolution strategy.
        validate_every: generations between checks of the mean on fixed validation documents.
    """

    name: str
    version: str
    model: str = "bundled"
    key_input: bool = False
    spectrum_zeroed: bool = False
    recency_clip: int | None = 8192
    start: str = "zero"
    budget: int = 256
    interval: int = 512
    tokens: int = 4096
    facts: int = 12
    questions: int = 8
    filler: tuple[FillerKind, ...] = ("business", "stdlib", "mixed")
    documents: int = 3
    population: int = 16
    sigma: float = 0.05
    generations: int = 100
    validate_every: int = 10
    validation_documents: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if self.start not in STARTS or ("key" in self.start and not self.key_input):
            raise Refusal(
                "bad_config", f"start must be one of {STARTS}; those with a key need key_input = true"
            )
        if self.tokens % self.interval or self.interval % 16:
            raise Refusal("bad_config", "tokens must be a multiple of interval, and interval of 16")

    @classmethod
    def read(cls, path: Path) -> "EvolutionConfig":
        """Raises Refusal `bad_config` naming what is wrong."""
        try:
            values: dict[str, Any] = tomllib.loads(path.read_text())
            if "filler" in values:
                values["filler"] = tuple(values["filler"])
            unknown = values.keys() - {field.name for field in fields(cls)}
            if unknown:
                raise Refusal("bad_config", f"{path.name}: unknown entries {', '.join(sorted(unknown))}")
            return cls(**values)
        except (OSError, tomllib.TOMLDecodeError, TypeError) as error:
            raise Refusal("bad_config", f"{path}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
