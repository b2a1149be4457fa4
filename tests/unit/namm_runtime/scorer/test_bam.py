"""Backward attention memory against a dense backward mask."""

import torch

from namm_runtime.scorer.bam import Bam


def dense(bam: Bam, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    p = bam.split(flat)
    q, k, v = (x @ p["attn.qkv.weight"] + p["attn.qkv.bias"]).chunk(3, dim=-1)
    scores = q @ k.transpose(-1, -2) / bam.width**0.5
    newer_or_same = torch.ones(x.shape[-2], x.shape[-2]).triu()
    source = scores.masked_fill(newer_or_same == 0, -torch.inf).softmax(-1) @ v
    residual, multiplier = (source @ p["attn.out.weight"] + p["attn.out.bias"]).chunk(2, dim=-1)
    return ((x * (1 + multiplier) + residual) @ p["head.weight"] + p["head.bias"]).squeeze(-1)


def test_flipped_causal_attention_equals_the_backward_mask():
    generator = torch.Generator().manual_seed(0)
    bam = Bam()
    flat = torch.randn(bam.size, generator=generator, dtype=torch.float64) * 0.3
    x = torch.randn(2, 3, 130, 25, generator=generator, dtype=torch.float64)
    assert torch.allclose(bam.score(flat, x), dense(bam, flat, x), atol=1e-10)


def test_a_population_scores_like_its_members():
    generator = torch.Generator().manual_seed(1)
    bam = Bam(features=26)
    population = torch.randn(3, bam.size, generator=generator) * 0.3
    x = torch.randn(3, 2, 50, 26, generator=generator)
    together = bam.score(population, x)
    for row in range(3):
        alone = bam.score(population[row], x[row : row + 1])
        assert torch.allclose(together[row : row + 1], alone, atol=1e-5)


def test_the_published_size():
    assert Bam().size == 4172
    assert Bam(width=16).size == 2124


def test_newer_tokens_are_not_influenced_by_older_ones():
    generator = torch.Generator().manual_seed(2)
    bam = Bam()
    flat = torch.randn(bam.size, generator=generator) * 0.3
    x = torch.randn(1, 1, 60, 25, generator=generator)
    changed = x.clone()
    changed[:, :, :20] += 1
    before, after = bam.score(flat, x), bam.score(flat, changed)
    assert torch.allclose(before[..., 20:], after[..., 20:], atol=1e-6)
    assert not torch.allclose(before[..., :20], after[..., :20], atol=1e-3)


def test_sizes_of_the_variants():
    assert Bam(multiply=False).size == 3347
    assert Bam(bias=False).size == 4026
    assert Bam(width=16, bias=False).size == 2026


def test_without_multiplier_the_attention_only_adds():
    generator = torch.Generator().manual_seed(3)
    bam, plain = Bam(), Bam(multiply=False)
    flat = torch.randn(bam.size, generator=generator)
    parts = bam.split(flat)
    parts["attn.out.weight"][:, 25:] = 0
    parts["attn.out.bias"][25:] = 0
    parts["attn.out.weight"], parts["attn.out.bias"] = (
        parts["attn.out.weight"][:, :25],
        parts["attn.out.bias"][:25],
    )
    x = torch.randn(1, 2, 30, 25, generator=generator)
    shorter = torch.cat([part.flatten() for part in parts.values()])
    assert torch.allclose(bam.score(flat, x), plain.score(shorter, x), atol=1e-5)
