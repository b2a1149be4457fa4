"""The packed layers that the benchmark measures compute what they stand for."""

import pytest
import torch
from torch import nn

from benchmarks import packed_weights, speed_tables
from benchmarks.packed_weights import Int4Linear, Int8Linear, layer_bytes, pack


@pytest.mark.parametrize(("kind", "error"), [(Int8Linear, 0.02), (Int4Linear, 0.15)])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_layers_come_near_the_plain_one(kind: type[nn.Module], error: float, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(128, 64, bias=bias).bfloat16()
    x = torch.randn(2, 5, 128).bfloat16()
    expected, found = plain(x).float(), kind(plain)(x).float()
    assert found.shape == expected.shape
    assert (found - expected).norm() / expected.norm() < error


def test_packing_replaces_every_linear_layer_and_saves_memory() -> None:
    def layers() -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleList(
            [nn.Sequential(nn.Linear(128, 128), nn.LayerNorm(128)) for _ in range(2)]
        ).bfloat16()

    sizes = []
    for packing in (None, "int8", "int4"):
        packed = layers()
        pack(packed, packing)
        assert any(type(one) is nn.Linear for one in packed.modules()) == (packing is None)
        sizes.append(layer_bytes(packed))
    assert sizes[0] > 1.8 * sizes[1] > 1.8 * sizes[2]


def test_the_table_says_what_does_not_win() -> None:
    machine = {"processor": "P", "threads": 1, "torch": "2", "date": "2026-12-01"}

    def row(weights: str, read: float, write: float) -> dict:
        assert weights in packed_weights.WEIGHTS
        speeds = {"read_tokens_per_second": read, "write_tokens_per_second": write}
        return {
            "model": "m",
            "weights": weights,
            "layer_bytes": 2**20,
            "agreement": 0.5,
            "machine": machine,
            **speeds,
        }

    rows = [row("bfloat16", 100, 10), row("int8, weights only", 50, 13), row("int4, weights only", 101, 11)]
    lines = speed_tables.packed_weights(rows).splitlines()
    assert lines[2].endswith("| – |")
    assert (
        lines[3] == "| int8, weights only | 1 MiB | 50.0 | 13.0 | 50.0% | no (0.50 reading, 1.30 writing) |"
    )
    assert lines[4].endswith("| yes |")
