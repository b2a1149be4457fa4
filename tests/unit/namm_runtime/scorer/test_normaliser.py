"""Pooled moments are those of the pooled sample, and empty statistics change nothing."""

import pytest
import torch

from namm_runtime.scorer.normaliser import Moments, Normaliser


@pytest.fixture
def spectra() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 2, size, 17, generator=generator).double() * size for size in (40, 7, 90)]


def test_merging_equals_pooling(spectra):
    merged = Moments.empty()
    for part in spectra:
        merged = merged.merge(Moments.of(part))
    everything = torch.cat([part.reshape(-1, 17) for part in spectra])
    assert merged.count == len(everything)
    assert torch.allclose(merged.mean, everything.mean(0))
    assert torch.allclose(merged.variance, everything.var(0, correction=0))


def test_tokens_left_out_do_not_count(spectra):
    counted = torch.ones(1, 2, 40, dtype=torch.bool)
    counted[:, :, :9] = False
    damaged = spectra[0].clone()
    damaged[:, :, :9] = 1e9
    assert torch.equal(Moments.of(damaged, counted).mean, Moments.of(spectra[0][:, :, 9:]).mean)
    assert Moments.of(damaged, torch.zeros_like(counted)).count == 0


def test_nothing_gathered_passes_through(spectra):
    assert torch.equal(Normaliser()(spectra[0]), spectra[0])


def test_gathering_includes_the_present_call(spectra):
    normalised = Normaliser(frozen=False)(spectra[0])
    assert torch.allclose(normalised.mean((0, 1, 2)), torch.zeros(17, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(normalised.var((0, 1, 2), correction=0), torch.ones(17, dtype=torch.float64))


def test_statistics_in_use_come_before_gathered_ones_and_adopt_them(spectra):
    normaliser = Normaliser(Moments.of(spectra[0]), frozen=False)
    before = normaliser(spectra[1])
    assert torch.equal(before, Normaliser(Moments.of(spectra[0]))(spectra[1]))
    normaliser.adopt()
    assert normaliser.gathered.count == 0
    assert normaliser.in_use.count == 94
    assert not torch.equal(normaliser(spectra[1]), before)


def test_a_bin_that_never_varies_stays_finite():
    constant = torch.full((1, 1, 5, 17), 0.25)
    assert torch.equal(Normaliser(frozen=False)(constant), torch.zeros_like(constant))
