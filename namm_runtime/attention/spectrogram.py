"""The attention each cached token received, as a decaying spectrogram (arXiv 2410.13166, section 3).

Every 16 queries complete a frame of 32. A frame's magnitude spectrum is 17 numbers per token; frames are
averaged with weights that halve every 69 queries. The recursion gives the same result for blocks of 16 or
512.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from namm_runtime.attention.workspace import take

FRAME, HOP, BINS = 32, 16, 17


def dft_basis(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """[34, 32]: cosine rows then sine rows of a 32-point DFT under a periodic Hann window."""
    samples = torch.arange(FRAME, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * samples / FRAME)
    angle = 2 * math.pi * torch.arange(BINS, dtype=torch.float64).unsqueeze(-1) * samples / FRAME
    return torch.cat((window * angle.cos(), -window * angle.sin())).to(dtype=dtype, device=device)


class Spectrogram:
    """Folds attention columns into each slot's `ema` (17 floats) and `carry` (the last 16 columns).

    Args:
        gamma: decay per query; the published value is 0.99.
    """

    state: ClassVar[dict[str, int]] = {"ema": BINS, "carry": HOP}

    def __init__(self, gamma: float = 0.99) -> None:
        self.gamma = gamma
        self.scratch_bytes = 0  # size of the largest call's temporaries so far
        self._basis = torch.empty(0)

    def fold_into(self, state: Mapping[str, Tensor], columns: Tensor) -> None:
        """`fold` for a layer's state [B, H, C, floats]; the block attended to the oldest N slots.

        Newer slots have received no attention yet: their spectrum stays zero.
        """
        slots = columns.shape[-1]
        self.fold(columns, *(state[name][:, :, :slots] for name in ("ema", "carry")))

    def fold(self, columns: Tensor, ema: Tensor, carry: Tensor) -> None:
        """Update `ema` [B, H, N, 17] and `carry` [B, H, N, 16] in place.

        Args:
            columns: [B, H, n, N] attention paid by n consecutive queries (n a multiple of 16) to N keys.
                Fastest if a query's columns are contiguous in memory, as `attention` lays them out.
        """
        batch, heads, queries, keys = columns.shape
        frames, rows = queries // HOP, batch * heads * keys
        if queries % HOP:
            raise ValueError(f"{queries} queries are not a multiple of {HOP}")
        basis = self._basis_for(columns)
        # [query, row]: a frame is then 32 neighbouring rows of it, and frames overlap without a copy.
        by_query = columns.permute(2, 0, 1, 3).reshape(queries, rows).contiguous()
        spectrum = take("spectrum", (frames, 2 * BINS, rows), columns)
        magnitude = take("magnitude", (frames, BINS, rows), columns)
        copied = by_query.nbytes if by_query.data_ptr() != columns.data_ptr() else 0
        self.scratch_bytes = max(self.scratch_bytes, spectrum.nbytes + magnitude.nbytes + copied)
        # The older half of the first frame is the carry of the previous call.
        older = carry.permute(3, 0, 1, 2).reshape(HOP, rows)
        torch.mm(basis[:, :HOP], older, out=spectrum[0])
        spectrum[0].addmm_(basis[:, HOP:], by_query[:HOP])
        if frames > 1:
            overlapping = by_query.as_strided((frames - 1, FRAME, rows), (HOP * rows, rows, 1))
            torch.bmm(basis.expand(frames - 1, -1, -1), overlapping, out=spectrum[1:])
        # Not torch.hypot, which takes twice as long only to keep magnitudes below 1e-19 from becoming zero.
        real, imaginary = spectrum[:, :BINS], spectrum[:, BINS:]
        torch.mul(real, real, out=magnitude).addcmul_(imaginary, imaginary).sqrt_()
        fade = self.gamma**HOP
        weights = (1 - fade) * fade ** torch.arange(
            frames - 1, -1, -1, device=columns.device, dtype=ema.dtype
        )
        folded = (weights @ magnitude.view(frames, -1)).view(BINS, batch, heads, keys)
        ema.mul_(self.gamma**queries).add_(folded.permute(1, 2, 3, 0))
        carry.copy_(by_query[-HOP:].view(HOP, batch, heads, keys).permute(1, 2, 3, 0))

    def _basis_for(self, like: Tensor) -> Tensor:
        if self._basis.dtype != like.dtype or self._basis.device != like.device or not self._basis.numel():
            self._basis = dft_basis(like.dtype, like.device)
        return self._basis
