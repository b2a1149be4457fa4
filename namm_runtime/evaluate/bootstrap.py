"""Bootstrap confidence intervals over documents, since questions about one document are not independent.

Documents are resampled within strata of equal tasks and length, as the suite fixes the number of each; if a
stratum has only one document, all are resampled together. Of m documents m − 1 are drawn and weighted by
m / (m − 1), which keeps the intervals of small strata from being too narrow (Rao and Wu, JASA 83, 1988). All
policies use the same resamples, so that their differences are paired.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
FEWEST = 4  # documents; resampling fewer is meaningless
Array = NDArray[np.float64]
Interval = tuple[float, float]


def _divide(above: Array, below: NDArray[Any]) -> Array:
    """Elementwise division; NaN where the divisor is not positive."""
    quotient: Array = np.full(below.shape, np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient


@dataclass(frozen=True)
class ScoreTable:
    """Scores of one policy at one budget.

    Attributes:
        sums: [D, T] sum of the scores of each document's questions, by task.
        counts: [D, T] number of those questions; all zero for documents that were refused.
    """

    sums: Array
    counts: Array

    @property
    def done(self) -> NDArray[np.bool_]:
        """[D] whether each document has scores."""
        return np.asarray(self.counts.sum(1) > 0)

    def only(self, documents: NDArray[np.bool_]) -> "ScoreTable":
        """The same for these documents only."""
        return ScoreTable(self.sums * documents[:, None], self.counts * documents[:, None])

    def task(self, *numbers: int) -> "ScoreTable":
        """The same for one task or some."""
        return ScoreTable(self.sums[:, list(numbers)], self.counts[:, list(numbers)])

    @property
    def questions(self) -> int:
        return int(self.counts.sum())

    def score(self, weights: Array | None = None) -> Array:
        """Mean over tasks of the mean over questions → [R]; NaN if there are none.

        Args:
            weights: [R, D] of the documents; None weights all equally.
        """
        weights = np.ones((1, len(self.sums))) if weights is None else weights
        counts = weights @ self.counts
        means = _divide(weights @ self.sums, counts)
        present = (~np.isnan(means)).sum(1)
        return _divide(np.nansum(means, 1), present)


def resample_weights(strata: Sequence[Hashable], documents: NDArray[np.bool_]) -> Array | None:
    """Weights [R, D] of resampled documents, from a fixed seed; None if there are too few documents.

    Args:
        strata: [D] each document's stratum.
        documents: [D] which of them to resample.
    """
    taking_part = np.flatnonzero(documents).tolist()
    if len(taking_part) < FEWEST:
        return None
    groups: dict[Hashable, list[int]] = {}
    for index in taking_part:
        groups.setdefault(strata[index], []).append(index)
    sets = list(groups.values())
    if min(map(len, sets)) == 1:
        sets = [taking_part]
    generator = np.random.default_rng(0)
    weights = np.zeros((RESAMPLES, len(strata)))
    for members in sets:
        size = len(members)
        drawn = generator.multinomial(size - 1, np.full(size, 1 / size), size=RESAMPLES)
        weights[:, members] = drawn * size / (size - 1)
    return weights


def interval(values: Array | None) -> Interval | None:
    """The middle 95 % of resampled values; None if there are none."""
    if values is None:
        return None
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


@dataclass(frozen=True)
class Estimate:
    """A value with its interval and the number of documents and questions behind it."""

    value: float
    interval: Interval | None
    documents: int
    questions: int


def score(scores: ScoreTable, strata: Sequence[Hashable]) -> Estimate | None:
    """Mean score; None without documents."""
    return _estimate(strata, scores.done, scores, scores.score)


def difference(scores: ScoreTable, other: ScoreTable, strata: Sequence[Hashable]) -> Estimate | None:
    """Mean score minus the other's, over the documents that both answered."""
    both = scores.done & other.done
    mine, theirs = scores.only(both), other.only(both)
    return _estimate(strata, both, mine, lambda weights: mine.score(weights) - theirs.score(weights))


def ratio(scores: ScoreTable, other: ScoreTable, strata: Sequence[Hashable]) -> Estimate | None:
    """Mean score as a share of the other's on the same documents; None if the other's is zero."""
    both = scores.done & other.done
    mine, theirs = scores.only(both), other.only(both)

    def share(weights: Array | None) -> Array:
        return _divide(mine.score(weights), theirs.score(weights))

    return _estimate(strata, both, mine, share)


def _estimate(
    strata: Sequence[Hashable],
    documents: NDArray[np.bool_],
    scores: ScoreTable,
    figure: Callable[[Array | None], Array],
) -> Estimate | None:
    if not documents.any():
        return None
    value = float(figure(None)[0])
    if not np.isfinite(value):
        return None
    weights = resample_weights(strata, documents)
    spread = interval(None if weights is None else figure(weights))
    return Estimate(value, spread, int(documents.sum()), scores.questions)
