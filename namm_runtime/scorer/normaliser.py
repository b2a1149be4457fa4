"""How the spectrum is brought to scale before it is scored: one mean and one variance a frequency bin.

The statistics are shared by layers, heads and tokens. A served scorer brings them along, frozen. Gathering
them is part of evolution: every eviction of every layer adds all cached tokens, in the order they happen.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from namm_runtime.attention.spectrogram import BINS
from namm_runtime.device_constants import DeviceConstants

LEAST_DEVIATION = 1e-7  # the reference's guard against bins that never vary


@dataclass(frozen=True)
class Moments:
    """Mean and population variance [17] of `count` spectra."""

    mean: Tensor
    variance: Tensor
    count: int

    @cached_property
    def constants(self) -> DeviceConstants:
        """Mean and guarded deviation, where they are needed."""
        return DeviceConstants(self.mean, self.variance.sqrt().clamp(min=LEAST_DEVIATION))

    @classmethod
    def empty(cls) -> "Moments":
        return cls(torch.zeros(BINS), torch.zeros(BINS), 0)

    @classmethod
    def of(cls, ema: Tensor, counted: Tensor | None = None) -> "Moments":
        """Of ema [..., 17]; `counted` [...] bool leaves tokens out."""
        rows = ema.reshape(-1, BINS) if counted is None else ema[counted]
        if not len(rows):
            return cls.empty()
        mean = rows.mean(0)
        return cls(mean, (rows - mean).square().mean(0), len(rows))

    def merge(self, other: "Moments") -> "Moments":
        """Of both samples together, by the exact rule for pooled variances (Chan et al. 1979)."""
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
    """Brings spectra to mean 0 and deviation 1 by the statistics in use, or else by those gathered so far.

    Statistics that are not frozen belong to the run, not to a document: they carry over from one document to
    the next and depend on their order. No snapshot holds them, and nothing served uses them.

    Args:
        in_use: what a scorer was evolved with; None normalises by what has been gathered.
        frozen: gather nothing. With nothing in use either, spectra pass through as they are.
    """

    def __init__(self, in_use: Moments | None = None, frozen: bool = True) -> None:
        self.in_use, self.frozen = in_use, frozen
        self.gathered = Moments.empty()

    def __call__(self, ema: Tensor, counted: Tensor | None = None) -> Tensor:
        """Normalise ema [B, H, N, 17]; where not frozen, gather it first.

        Args:
            counted: [B, H, N] bool, slots that hold a token. The others are left out of the statistics.
        """
        if not self.frozen:
            self.gathered = _to(self.gathered, ema).merge(Moments.of(ema, counted))
        moments = self.gathered if self.in_use is None else self.in_use
        if not moments.count:
            return ema
        mean, deviation = moments.constants.on(ema.device)
        return (ema - mean) / deviation

    def adopt(self) -> None:
        """Put what was gathered into use and begin anew, as the reference does after its first evaluation."""
        self.in_use = (self.in_use or Moments.empty()).merge(self.gathered)
        self.gathered = Moments.empty()


def _to(moments: Moments, like: Tensor) -> Moments:
    return Moments(moments.mean.to(like.device), moments.variance.to(like.device), moments.count)
