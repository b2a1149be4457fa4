"""Names, numbers, dates and codes that planted facts are about."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from namm_runtime.tasks.real.wordings import Vocabulary
from namm_runtime.tasks.words import Split, sample_number


@dataclass
class Values:
    """Draws values for one document; no name and no value is drawn twice."""

    rng: random.Random
    split: Split
    words: Vocabulary
    _taken: set[str] = field(default_factory=set)

    def name(self) -> str:
        """A place of the split's own."""
        return self._fresh(lambda: self.rng.choice(self.words.names))

    def draw(self, kind: str) -> str:
        """A value of a kind: one of this class's methods."""
        draw: Callable[[], str] = getattr(self, kind)
        return draw() if kind == "name" else self._fresh(draw)

    def number(self) -> str:
        return str(sample_number(self.rng, self.split, 4))

    def small(self) -> str:
        return str(sample_number(self.rng, self.split, 3))

    def code(self) -> str:
        letters = "".join(self.rng.choices("BCDFGHJKLMNPRSTVWXZ", k=2))
        return f"{letters}-{sample_number(self.rng, self.split, 3)}"

    def person(self) -> str:
        surname = self._fresh(lambda: self.rng.choice(self.words.surnames))
        return self.words.person.format(first=self.rng.choice(self.words.first_names), name=surname)

    def company(self) -> str:
        return self.rng.choice(self.words.companies).format(name=self.name())

    def date(self) -> str:
        return self.words.date.format(**self._day(), year=self.rng.randint(1970, 2019))

    def day(self) -> str:
        return self.words.day.format(**self._day())

    def time(self) -> str:
        return f"{self.rng.randint(6, 21):02d}:{self.rng.choice((5, 10, 20, 25, 35, 40, 50, 55)):02d}"

    def amount(self) -> str:
        return self.words.amount.format(number=sample_number(self.rng, self.split, self.rng.choice((4, 5))))

    def material(self) -> str:
        return self.rng.choice(self.words.materials)

    def _day(self) -> dict[str, object]:
        return {"day": self.rng.randint(1, 28), "month": self.rng.choice(self.words.months)}

    def _fresh(self, draw: Callable[[], str]) -> str:
        for _ in range(1000):
            value = draw()
            if value not in self._taken:
                self._taken.add(value)
                return value
        raise ValueError("too many values of one kind in a document")
