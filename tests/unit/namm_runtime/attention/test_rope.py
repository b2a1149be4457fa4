"""Rotation far into a long document, against exact arithmetic and against transformers."""

import math
from fractions import Fraction

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from namm_runtime.attention.rope import Rotation

WIDTH = 64
FAR = [0, 1, 511, 4_096, 131_071, 1_000_000, 1_048_575, 16_000_003]
TWO_PI = Fraction("6.283185307179586476925286766559005768394338798750211641949889184615632")
TYPES = {
    "default": {},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 2048},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 2048,
    },
}


def embedding(kind: str) -> LlamaRotaryEmbedding:
    rope = {"rope_type": kind, "rope_theta": 500_000.0} | TYPES[kind]
    config = LlamaConfig(
        hidden_size=WIDTH, num_attention_heads=1, max_position_embeddings=8192, rope_parameters=rope
    )
    return LlamaRotaryEmbedding(config)


def turned(rotation: Rotation, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [T, WIDTH / 2] in fp64, as rotating (1, …, 1, 0, …, 0) shows them."""
    unit = torch.cat((torch.ones(WIDTH // 2), torch.zeros(WIDTH // 2))).double().expand(len(positions), -1)
    return rotation.rotate(unit, torch.tensor(positions)).chunk(2, dim=-1)


def exact(frequencies: torch.Tensor, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from products without rounding, brought below one turn before they become floats."""
    angles = [
        [float(position * Fraction(frequency) % TWO_PI) for frequency in frequencies.tolist()]
        for position in positions
    ]
    found = torch.tensor(angles, dtype=torch.float64)
    return found.cos(), found.sin()


@pytest.mark.parametrize("kind", TYPES)
def test_angles_are_exact_far_beyond_a_million_tokens(kind):
    frequencies = embedding(kind).inv_freq
    for ours, expected in zip(turned(Rotation(frequencies), FAR), exact(frequencies, FAR), strict=True):
        assert (ours - expected).abs().max() < 1e-8


def test_single_precision_would_be_off():
    frequencies = embedding("default").inv_freq
    ours, expected = turned(Rotation(frequencies).in_fp32(), FAR), exact(frequencies, FAR)
    assert (ours[0][-3:] - expected[0][-3:]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_turns_as_transformers_does(kind):
    """Within the rounding of fp32 angles, and without YaRN's factor, which the model itself applies."""
    rotary, places = embedding(kind), [0, 3, 700, 2047, 8191]
    cos, sin = rotary(torch.zeros(1, 1, WIDTH), torch.tensor([places]))
    for ours, theirs in zip(turned(Rotation(rotary.inv_freq), places), (cos, sin), strict=True):
        theirs = theirs[0, :, : WIDTH // 2].double() / rotary.attention_scaling
        assert (ours - theirs).abs().max() < 8191 * 2**-23


def test_types_differ():
    turns = [turned(Rotation(embedding(kind).inv_freq), [2047])[0] for kind in TYPES]
    assert all((one - other).abs().max() > 0.1 for i, one in enumerate(turns) for other in turns[:i])
    assert embedding("yarn").attention_scaling == pytest.approx(0.1 * math.log(4) + 1)


def test_only_distances_count():
    """Scores of a query and a key 300 tokens apart, at the start and a million tokens on."""
    rotation = Rotation(embedding("default").inv_freq)
    query, key = torch.randn(2, 1, WIDTH, generator=torch.Generator().manual_seed(0)).double()

    def score(where: Rotation, place: int) -> float:
        places = torch.tensor([place]), torch.tensor([place + 300])
        return float((where.rotate(key, places[0]) * where.rotate(query, places[1])).sum())

    assert score(rotation, 1_000_000) == pytest.approx(score(rotation, 0), abs=1e-7)
    assert abs(score(rotation.in_fp32(), 1_000_000) - score(rotation, 0)) > 1e-3


def test_a_table_of_places_is_the_same_rotation():
    rotation = Rotation(embedding("llama3").inv_freq)
    x = torch.randn(2, 40, WIDTH, generator=torch.Generator().manual_seed(0))
    for first in (0, 1000, 5000):
        places = torch.arange(first, first + 40)
        assert torch.equal(rotation.rotate_range(x, first), rotation.rotate(x, places))
