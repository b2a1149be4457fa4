"""Attention columns without an attention matrix, recomputed from queries, keys and the log-sum-exp.

A flash kernel returns outputs and the log-sum-exp of every row. The attention weight of a query on a key is
exp(q·k·scale − lse), so the columns that policies observe can be computed key by key (arXiv 2205.14135,
section 3.1). Slots are laid out as in `namm_runtime.cache`: kept tokens, unused slots, and the pending tokens
from `start` on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from namm_runtime.attention.spectrogram import HOP, Spectrogram

SCRATCH_BYTES = 64 << 20  # scores that the torch fallbacks hold at once, whatever the budget or document


@dataclass(frozen=True)
class ColumnSource:
    """What the attention columns of n consecutive queries are recomputed from.

    Attributes:
        query: [B, Hq, n, D] rotated; the last one belongs to the token in slot `seen - 1`.
        key: [B, Hkv, C, D] rotated, contiguous. Slots from `seen` on may hold any finite values.
        lse: [B, Hq, n] fp32, natural log-sum-exp of the scaled scores over all visible keys.
        lengths: [B, Hkv] slots in use below `start`.
    """

    query: Tensor
    key: Tensor
    lse: Tensor
    scaling: float
    lengths: Tensor
    start: int
    seen: int

    @property
    def queries(self) -> int:
        return self.query.shape[2]

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.query.shape[1] // self.key.shape[1]

    def columns(self, begin: int, end: int) -> Tensor:
        """Attention to slots begin … end, averaged over each group of heads → [B, Hkv, n, end - begin]."""
        batch, heads, _, width = self.key.shape
        dtype = torch.promote_types(self.query.dtype, torch.float32)  # half precision would round scores
        query = self.query.to(dtype).reshape(batch, heads, -1, width) * self.scaling
        scores = query @ self.key[:, :, begin:end].to(dtype).transpose(-1, -2)
        scores = scores.view(batch, heads, self.group, self.queries, end - begin)
        weights = scores.sub_(self.lse.view(batch, heads, self.group, self.queries, 1)).exp_()
        slots = torch.arange(begin, end, device=self.key.device)
        if begin < self.start:
            unused = (slots >= self.lengths.unsqueeze(-1)) & (slots < self.start)
            weights.masked_fill_(unused[:, :, None, None, :], 0)
        first = self.seen - self.queries  # the oldest query's own slot
        if end > first + 1:
            places = torch.arange(first, self.seen, device=self.key.device)
            weights.masked_fill_(slots > places.unsqueeze(-1), 0)
        return weights.mean(dim=2)

    def blocks(self) -> Iterator[Tensor]:
        """Columns of blocks of 16 or more queries over all visible slots, oldest queries first.

        Scratch: two blocks of scores, within SCRATCH_BYTES unless 16 queries alone exceed it.
        """
        a_query = self.query.shape[0] * self.query.shape[1] * self.seen * 4
        size = max(HOP, SCRATCH_BYTES // a_query // HOP * HOP)
        for begin in range(0, self.queries, size):
            end = min(begin + size, self.queries)
            part = replace(
                self,
                query=self.query[:, :, begin:end],
                lse=self.lse[:, :, begin:end],
                seen=self.seen - self.queries + end,
            )
            yield part.columns(0, part.seen)


class Fold(Protocol):
    """Folds n queries (a multiple of 16) into `ema` [B, Hkv, N ≥ seen, 17] and `carry` [… 16], in place."""

    def __call__(
        self, spectrogram: Spectrogram, source: ColumnSource, ema: Tensor, carry: Tensor
    ) -> None: ...


def fold_tiles(
    spectrogram: Spectrogram, source: ColumnSource, ema: Tensor, carry: Tensor, tile: int | None = None
) -> None:
    """The second pass in torch, one tile of slots at a time, in place. Equal to a single fold over all slots.

    Args:
        tile: slots per tile; by default as many as fit into SCRATCH_BYTES, at least 16.
    """
    a_slot = source.query.shape[0] * source.query.shape[1] * source.queries * 4
    size = tile or max(16, SCRATCH_BYTES // a_slot)
    for begin in range(0, source.seen, size):
        end = min(begin + size, source.seen)
        spectrogram.fold(source.columns(begin, end), ema[:, :, begin:end], carry[:, :, begin:end])
