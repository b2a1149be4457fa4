"""The perceptron scorer against its formula, and the sizes that an importer recognises."""

import pytest
import torch

from namm_runtime.scorer.mlp import Mlp


@pytest.mark.parametrize(
    ("mlp", "size"),
    [
        (Mlp(), 26),
        (Mlp(bias=False), 25),
        (Mlp(depth=2), 676),
        (Mlp(width=16, depth=2, residual=False), 433),
        (Mlp(depth=3), 1326),
    ],
)
def test_sizes_are_those_of_the_reference(mlp, size):
    assert mlp.size == size


def test_depth_two_equals_its_formula():
    generator = torch.Generator().manual_seed(0)
    mlp = Mlp(depth=2)
    flat = torch.randn(mlp.size, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 3, 40, 25, generator=generator, dtype=torch.float64)
    hidden = x + (x @ flat[:625].view(25, 25) + flat[625:650]).relu()
    expected = hidden @ flat[650:675] + flat[675]
    assert torch.allclose(mlp.score(flat, x), expected, atol=1e-10)


def test_middle_layers_are_in_the_vector_and_without_effect():
    generator = torch.Generator().manual_seed(1)
    mlp = Mlp(depth=3)
    flat = torch.randn(mlp.size, generator=generator)
    x = torch.randn(1, 2, 10, 25, generator=generator)
    changed = flat.clone()
    changed[650:1300] += 1
    assert torch.equal(mlp.score(flat, x), mlp.score(changed, x))


def test_a_population_scores_like_its_members():
    generator = torch.Generator().manual_seed(2)
    mlp = Mlp(width=16, depth=2, residual=False)
    population = torch.randn(3, mlp.size, generator=generator)
    x = torch.randn(3, 2, 50, 25, generator=generator)
    together = mlp.score(population, x)
    for row in range(3):
        alone = mlp.score(population[row], x[row : row + 1])
        assert torch.allclose(together[row : row + 1], alone, atol=1e-5)


@pytest.mark.parametrize(
    "shape", [{"depth": 0}, {"depth": 2, "width": 16}, {"depth": 3, "width": 25, "residual": False}]
)
def test_undefined_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="unsupported MLP scorer"):
        Mlp(**shape)
