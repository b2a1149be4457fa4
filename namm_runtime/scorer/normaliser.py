"""Normalisation of the spectrum before scoring: one mean and one variance per frequency bin.

The statistics are shared by layers, heads and tokens. A served scorer includes them, frozen. They are
gathered
during evolution: every eviction of every layer adds all cached tokens, in the order of the evictions.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from namm_runtime.attention.spectrogram import BINS
from namm_runtime.device_constants import DeviceConstants

LEAST_DEVIATION = 1e-7  # as in the reference, against division by zero for constant bins


@dataclass(frozen=True)
class Moments:
    """Mean and population variance [17] over `count` spectra."""

    mean: Tensor
    variance: Tensor
    count: int

    @cached_property
    def constants(self) -> DeviceConstants:
        """Mean and clamped standard deviation."""
        return DeviceConstants(self.mean, self.variance.sqrt().clamp(min=LEAST_DEVIATION))

    @classmethod
    def empty(cls) -> "Moments":
        return cls(torch.zeros(BINS), torch.zeros(BINS), 0)

    @classmethod
    def of(cls, ema: Tensor, counted: Tensor | None = None) -> "Moments":
        """The moments of ema [..., 17], over the tokens that `counted` [...] selects."""
        rows = ema.reshape(-1, BINS) if counted is None else ema[counted]
        if not len(rows):
            return cls.empty()
        mean = rows.mean(0)
        return cls(mean, (rows - mean).square().mean(0), len(rows))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both samples together, by the exact rule for pooled variances (Chan et al. 1979)."""
        if not self.count + other.count:
            return self
        share = other.count / (self.count + other.count)
        rest = 1 - share
        return Moments(
            share * other.mean + rest * self.mean,
            share * other.variance
            + rest * self.variance
            + (self.mean - other.mean).square() * (share * rest),
            self.count + other.count,
        )


class Normaliser:
    """Normalises spectra to mean 0 and deviation 1 by the statistics in use, or those gathered so far.

    Statistics that are being gathered belong to the run, not to a document: they carry over from one document
    to the next and depend on the order of documents. Snapshots do not hold them, and serving does not use
    them.

    Args:
        in_use: the statistics a scorer was evolved with; None uses those gathered so far.
        frozen: do not gather. If there is nothing in use either, spectra are returned unchanged.
    """

    def __init__(self, in_use: Moments | None = None, frozen: bool = True) -> None:
        self.in_use, self.frozen = in_use, frozen
        self.gathered = Moments.empty()

    def __call__(self, ema: Tensor, counted: Tensor | None = None) -> Tensor:
        """Normalise ema [B, H, N, 17]; unless frozen, add it to the gathered statistics first.

        Args:
            counted: [B, H, N] bool, slots that hold a token. Other slots are left out of the statistics.
        """
        if not self.frozen:
            self.gathered = _to(self.gathered, ema).merge(Moments.of(ema, counted))
        moments = self.gathered if self.in_use is None else self.in_use
        if not moments.count:
            return ema
        mean, deviation = moments.constants.on(ema.device)
        return (ema - mean) / deviation

    def adopt(self) -> None:
        """Put what was gathered into use and start anew, as the reference does after its first evaluation."""
        self.in_use = (self.in_use or Moments.empty()).merge(self.gathered)
        self.gathered = Moments.empty()


def _to(moments: Moments, like: Tensor) -> Moments:
    return Moments(moments.mean.to(like.device), moments.variance.to(like.device), moments.count)
