"""The Triton kernel of a scorer's own attention, interpreted on the CPU, against double precision."""

import pytest
import torch

from benchmarks.gpu.checks import causal_error
from tests.support.interpreted import kernel_module

kernel = kernel_module("namm_runtime.attention.kernels.causal")


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("width", [16, 32])
def test_every_length_equals_double_precision(tokens, width):
    assert causal_error(kernel.causal, tokens=tokens, width=width) < 1e-5


def test_the_comparison_can_fail():
    def later_too(query, key, value):
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    assert causal_error(later_too) > 1e-3


def test_tokens_may_lie_apart():
    x = torch.randn(2, 2, 70, 96, generator=torch.Generator().manual_seed(0)).transpose(1, 2).contiguous()
    query, key, value = x.transpose(1, 2).chunk(3, dim=-1)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert torch.allclose(kernel.causal(query, key, value), expected, atol=1e-5)


def test_other_layouts_are_refused():
    query = torch.randn(1, 1, 20, 32)
    with pytest.raises(ValueError, match="same strides"):
        kernel.causal(query, torch.randn(1, 1, 32, 20).transpose(2, 3), query)
    with pytest.raises(ValueError, match="must be 16 or 32, not 25"):
        kernel.causal(*torch.randn(3, 1, 1, 20, 25))
