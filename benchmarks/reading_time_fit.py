"""Reading time as a quadratic function of the length, to extrapolate the full cache."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FORMULA = "seconds = linear * tokens + quadratic * tokens^2"


@dataclass(frozen=True)
class Quadratic:
    """A least-squares fit of relative errors, so that short and long documents count equally.

    Attributes:
        linear: seconds per token, independent of the length.
        quadratic: seconds per pair of tokens.
        residual: root mean square of the relative errors.
        worst: the largest relative error.
        points: number of measured points.
    """

    linear: float
    quadratic: float
    residual: float
    worst: float
    points: int

    @classmethod
    def through(cls, points: list[tuple[int, float]]) -> "Quadratic":
        """Fit measured points (tokens, seconds). Neither coefficient is negative.

        Raises:
            ValueError: fewer than two lengths.
        """
        if len({tokens for tokens, _ in points}) < 2:
            raise ValueError("a quadratic needs points at two lengths")
        tokens, seconds = np.array(points, dtype=np.float64).T
        basis = np.stack((tokens, tokens**2), axis=1) / seconds[:, None]
        found = np.linalg.lstsq(basis, np.ones(len(points)), rcond=None)[0]
        for index in np.flatnonzero(found < 0)[:1]:  # noise: drop that term and fit the other alone
            other = basis[:, 1 - index]
            found = np.zeros(2)
            found[1 - index] = other.sum() / (other @ other)
        errors = basis @ found - 1
        return cls(
            float(found[0]),
            float(found[1]),
            float(np.sqrt((errors**2).mean())),
            float(np.abs(errors).max()),
            len(points),
        )

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Quadratic":
        """The inverse of `to_dict`."""
        return cls(**{name: value for name, value in row.items() if name != "formula"})

    def seconds(self, tokens: int) -> float:
        return self.linear * tokens + self.quadratic * tokens**2

    def crossover(self, tokens_per_second: float) -> float:
        """Length beyond which reading at a constant speed is faster; 0 if it always is, infinite if never."""
        lead = 1 / tokens_per_second - self.linear
        if lead <= 0:
            return 0.0
        return lead / self.quadratic if self.quadratic else float("inf")

    def to_dict(self) -> dict[str, Any]:
        return {"formula": FORMULA} | asdict(self)
