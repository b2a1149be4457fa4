"""Names, numbers, dates and codes that planted facts are about."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from namm_runtime.tasks.words import NAMES, Split, sample_number

_FIRST_NAMES = (
    "Maria", "Peter", "Helen", "Omar", "Julia", "Victor", "Nadia", "Thomas", "Grace", "Henrik", "Lucia",
    "Samuel", "Irene", "Walter", "Clara", "Felix", "Olga", "Daniel", "Rosa", "Philip", "Anna", "Karim",
    "Ruth", "Simon",
)  # fmt: skip
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
_MATERIALS: dict[Split, tuple[str, ...]] = {
    "train": ("granite", "oak", "copper", "glass", "concrete", "marble", "steel", "bamboo", "clay", "brass"),
    "validation": ("slate", "pine", "bronze", "cork"),
    "test": ("limestone", "walnut", "aluminium", "sandstone", "cedar", "titanium", "brick", "maple"),
}
_COMPANY_ENDS = ("Instruments", "Logistics", "Brothers", "Engineering", "Systems", "Works")


@dataclass
class Values:
    """Draws values for one document; no name and no value is drawn twice."""

    rng: random.Random
    split: Split
    _taken: set[str] = field(default_factory=set)

    def name(self) -> str:
        """A place or a surname, of the split's own."""
        return self._fresh(lambda: self.rng.choice(NAMES[self.split]))

    def draw(self, kind: str) -> str:
        """A value of a kind: one of this class's methods."""
        draw = getattr(self, kind)
        return self.name() if kind == "name" else self._fresh(draw)

    def number(self) -> str:
        return str(sample_number(self.rng, self.split, 4))

    def small(self) -> str:
        return str(sample_number(self.rng, self.split, 3))

    def code(self) -> str:
        letters = "".join(self.rng.choices("BCDFGHJKLMNPRSTVWXZ", k=2))
        return f"{letters}-{sample_number(self.rng, self.split, 3)}"

    def person(self) -> str:
        return f"{self.rng.choice(_FIRST_NAMES)} {self.name()}"

    def company(self) -> str:
        return f"{self.name()} {self.rng.choice(_COMPANY_ENDS)}"

    def date(self) -> str:
        return f"{self.rng.randint(1, 28)} {self.rng.choice(_MONTHS)} {self.rng.randint(1970, 2019)}"

    def day(self) -> str:
        return f"{self.rng.randint(1, 28)} {self.rng.choice(_MONTHS)}"

    def time(self) -> str:
        return f"{self.rng.randint(6, 21):02d}:{self.rng.choice((5, 10, 20, 25, 35, 40, 50, 55)):02d}"

    def amount(self) -> str:
        number = sample_number(self.rng, self.split, self.rng.choice((4, 5)))
        return f"{number:,} euros"

    def material(self) -> str:
        return self.rng.choice(_MATERIALS[self.split])

    def _fresh(self, draw: Callable[[], str]) -> str:
        for _ in range(1000):
            value = draw()
            if value not in self._taken:
                self._taken.add(value)
                return value
        raise ValueError("too many values of one kind in a document")
