"""How well a value tells wrong answers from right ones."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from namm_runtime.evaluate.bootstrap import Interval, interval, resample_weights


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve with its interval by resampling documents; 0.5 is chance, 1 is perfect."""

    value: float
    interval: Interval | None
    wrong: int
    right: int


def auroc(
    values: Sequence[float], wrong: Sequence[bool], documents: Sequence[int], strata: Sequence[Hashable]
) -> Auroc | None:
    """The chance that a wrong answer has a higher value than a right one; equal values count half.

    Args:
        values, wrong, documents: one entry per answer; `documents` are indices into `strata`.
        strata: each document's stratum, see `bootstrap`.

    Returns None unless there are both wrong and right answers.
    """
    of, is_wrong, home = np.asarray(values, float), np.asarray(wrong, bool), np.asarray(documents, int)
    high, low = of[is_wrong], of[~is_wrong]
    if not len(high) or not len(low):
        return None
    above = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    taking_part = np.isin(np.arange(len(strata)), home)
    weights = resample_weights(strata, taking_part)
    spread = None
    if weights is not None:
        mine, theirs = weights[:, home[is_wrong]], weights[:, home[~is_wrong]]
        pairs = mine.sum(1) * theirs.sum(1)
        won = np.einsum("rw,rw->r", mine, theirs @ above.T)
        spread = interval(np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    return Auroc(float(above.mean()), spread, len(high), len(low))
