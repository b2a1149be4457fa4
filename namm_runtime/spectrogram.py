"""How each cached token was attended to, as a spectrum that fades with time (arXiv 2410.13166, section 3).

Every 16 queries close a frame of 32. A frame's magnitude spectrum is 17 numbers a token; frames are summed
with weights that halve every 69 queries. The recursion is the same whether queries come 16 or 512 at a time.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

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
        gamma: fading per query; the published value is 0.99.
    """

    state: ClassVar[dict[str, int]] = {"ema": BINS, "carry": HOP}

    def __init__(self, gamma: float = 0.99) -> None:
        self.gamma = gamma
        self.scratch_bytes = 0  # of the largest call so far
        self._halves = torch.empty(0)

    def fold_into(self, state: Mapping[str, Tensor], columns: Tensor) -> None:
        """`fold` for a layer's state [B, H, C, floats], of which the block saw the oldest N slots.

        Slots it could not see were attended by nobody: their spectrum is zero and stays so.
        """
        slots = columns.shape[-1]
        self.fold(columns, *(state[name][:, :, :slots] for name in ("ema", "carry")))

    def fold(self, columns: Tensor, ema: Tensor, carry: Tensor) -> None:
        """Update `ema` [B, H, N, 17] and `carry` [B, H, N, 16] in place.

        Args:
            columns: [B, H, n, N] attention paid by n consecutive queries (n a multiple of 16) to N keys.
        """
        batch, heads, queries, keys = columns.shape
        frames = queries // HOP
        if queries % HOP:
            raise ValueError(f"{queries} queries are not a multiple of {HOP}")
        halves = self._halves_for(columns)
        hops = columns.reshape(batch, heads, frames, HOP, keys)
        # A frame is two hops. The older half of the first frame is the carry of the previous call.
        newer = halves[1] @ hops
        older = torch.empty_like(newer)
        older[:, :, 1:] = halves[0] @ hops[:, :, :-1]
        older[:, :, 0] = halves[0] @ carry.transpose(-1, -2)
        self.scratch_bytes = max(self.scratch_bytes, newer.nbytes + older.nbytes)
        spectrum = newer.add_(older).view(batch, heads, frames, 2, BINS * keys)
        magnitude = spectrum.square_().sum(dim=3).sqrt_()
        fade = self.gamma**HOP
        weights = (1 - fade) * fade ** torch.arange(
            frames - 1, -1, -1, device=columns.device, dtype=ema.dtype
        )
        folded = (weights @ magnitude).view(batch, heads, BINS, keys)
        ema.mul_(self.gamma**queries).add_(folded.transpose(-1, -2))
        carry.copy_(hops[:, :, -1].transpose(-1, -2))

    def _halves_for(self, like: Tensor) -> Tensor:
        """[2, 34, 16]: the basis over the older and the newer hop of a frame."""
        if self._halves.dtype != like.dtype or self._halves.device != like.device or not self._halves.numel():
            basis = dft_basis(like.dtype, like.device)
            self._halves = torch.stack((basis[:, :HOP], basis[:, HOP:])).contiguous()
        return self._halves
