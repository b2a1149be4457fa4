"""Static NTK rotation: frequencies and angles."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from namm_runtime.attention.rope import Rotation, ntk_base

PATTERN = "rope_ntk*.safetensors"


def rotated_unit(
    rotation: Rotation, positions: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [T, width / 2]: what the runtime makes of (1, …, 1, 0, …, 0)."""
    unit = torch.cat(
        (torch.ones(len(positions), width // 2), torch.zeros(len(positions), width // 2)), dim=-1
    )
    return rotation.rotate(unit, positions).chunk(2, dim=-1)


def test_ntk(golden_file, compare):
    """The reference multiplies position and frequency in fp32, as parity mode does; budget mode does in fp64.

    An angle a is therefore off by up to a × 2⁻²⁴ in the reference, 0.002 rad at position 32,767. Angles in
    fp32 are compared as they are, angles in fp64 against this bound.
    """
    golden = load_file(golden_file)
    with safe_open(golden_file, "pt") as file:
        cases = {name: json.loads(text) for name, text in file.metadata().items() if name.startswith("d")}
        cases = cases or json.loads(file.metadata()["meta"])
    positions = golden["position_ids"].long()
    assert cases
    for name, case in cases.items():
        width = case["head_dim"]
        base = ntk_base(case["theta"], width, case["factor"], case["alpha"])
        assert abs(base / case["scaled_base"] - 1) < 1e-12
        frequencies = (1 / base ** (torch.arange(0, width, 2).double() / width)).float()
        expected = golden[f"{name}.inv_freq_fp32"]
        compare(golden_file, "frequencies", frequencies, expected, tolerance=2e-7, of_largest=True)
        assert torch.allclose(frequencies, expected, rtol=5e-7, atol=0)
        for kind, rounded in {
            "": expected,
            "_from_bf16_inv_freq": golden[f"{name}.inv_freq_bf16"].float(),
        }.items():
            rotation = Rotation(rounded)
            exact = rotated_unit(rotation, positions, width)
            ours = rotated_unit(rotation.in_fp32(), positions, width)
            bound = positions.unsqueeze(-1) * rounded.double() * 2**-24 + 2e-7
            for number, which in enumerate(("cos", "sin")):
                theirs = golden[f"{name}.{which}{kind}"][0, :, : width // 2]
                compare(golden_file, "angles", ours[number], theirs, tolerance=1e-6)
                assert ((exact[number] - theirs).abs() <= bound).all()
