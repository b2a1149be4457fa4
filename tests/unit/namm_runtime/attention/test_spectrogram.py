"""The spectrogram against torch.stft, and its independence of how queries are grouped."""

import math

import pytest
import torch

from namm_runtime.attention.spectrogram import Spectrogram, dft_basis

GAMMA = 0.99


def oracle(columns: torch.Tensor) -> torch.Tensor:
    """[B, H, n, N] → [B, H, N, 17] by torch.stft over the whole series, in double precision."""
    series = columns.double().transpose(-1, -2)
    padded = torch.nn.functional.pad(series, (16, 0)).flatten(0, 2)
    window = torch.hann_window(32, periodic=True, dtype=torch.float64)
    spectrum = torch.stft(padded, 32, 16, window=window, center=False, return_complex=True).abs()
    frames = spectrum.shape[-1]
    fade = GAMMA**16
    weights = (1 - fade) * fade ** torch.arange(frames - 1, -1, -1, dtype=torch.float64)
    return (spectrum * weights).sum(-1).view(*series.shape[:3], 17)


def fold(columns: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    batch, heads, _, keys = columns.shape
    ema = torch.zeros(batch, heads, keys, 17, dtype=columns.dtype)
    carry = torch.zeros(batch, heads, keys, 16, dtype=columns.dtype)
    spectrogram = Spectrogram(GAMMA)
    for piece in columns.split(sizes, dim=2):
        spectrogram.fold(piece, ema, carry)
    assert torch.equal(carry, columns[:, :, -16:].transpose(-1, -2))
    return ema


@pytest.fixture
def columns() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.softmax(torch.randn(2, 3, 512, 40, generator=generator) * 4, dim=-1)


def test_equals_torch_stft(columns):
    assert torch.allclose(fold(columns.double(), [512]), oracle(columns), atol=1e-12)
    assert torch.allclose(fold(columns, [512]).double(), oracle(columns), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("size", [16, 64, 128])
def test_grouping_of_queries_does_not_matter(columns, size):
    assert torch.allclose(fold(columns.double(), [size] * (512 // size)), oracle(columns), atol=1e-12)


def test_a_constant_series_has_the_analytic_spectrum():
    flat = torch.full((1, 1, 16 * 200, 1), 0.25, dtype=torch.float64)
    spectrum = fold(flat, [16 * 200]).flatten()
    steady = torch.zeros(17, dtype=torch.float64)
    steady[0], steady[1] = 16 * 0.25, 8 * 0.25
    assert torch.allclose(spectrum, steady, atol=1e-9)


def test_the_window_is_periodic():
    symmetric = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(32, dtype=torch.float64) / 31)
    assert torch.allclose(
        dft_basis(torch.float64)[0], torch.hann_window(32, periodic=True, dtype=torch.float64)
    )
    assert not torch.allclose(dft_basis(torch.float64)[0], symmetric, atol=1e-3)


def test_other_multiples_are_refused(columns):
    with pytest.raises(ValueError, match="multiple of 16"):
        fold(columns[:, :, :40], [40])
