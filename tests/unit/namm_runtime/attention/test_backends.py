"""What is chosen from what a device offers, and that every choice is the same attention."""

import sys
from importlib import util

import pytest
import torch

from namm_runtime.attention import backends, flash
from namm_runtime.attention.backends import select_backend
from namm_runtime.attention.columns import fold_tiles
from namm_runtime.attention.flash import plain
from tests.support import standin_kernels as standin

CPU = torch.device("cpu")


def probe(dtype: torch.dtype = torch.float32, width: int = 32, group: int = 4) -> backends.Backend:
    return backends.probe.__wrapped__(CPU, dtype, width, group)


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch):
    """Neither flash-attn nor Triton, and a torch without varlen_attn, until a test says otherwise."""
    original = util.find_spec
    missing = {"flash_attn", "triton", "torch.nn.attention.varlen"}

    def find_spec(name, *rest):
        return getattr(sys.modules.get(name), "__spec__", None) if name in missing else original(name, *rest)

    for name in missing:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(util, "find_spec", find_spec)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)


def install(monkeypatch, name, **members):
    monkeypatch.setitem(sys.modules, name, standin.module(name, **members))


def install_varlen(monkeypatch, call):
    install(monkeypatch, "torch.nn.attention.varlen", varlen_attn=call, AuxRequest=standin.AuxRequest)


def test_a_cpu_reads_in_one_pass():
    assert select_backend(CPU, torch.float32, 64, 4) is None


def test_with_nothing_installed_plain_torch_does_both_and_says_why():
    backend = probe()
    assert (backend.kernel, backend.fold) == (plain, fold_tiles)
    assert backend.name == f"plain attention (torch {torch.__version__}) + tiles in torch"
    assert backend.rejected == (
        "flash-attn is not installed",
        f"torch {torch.__version__} has no varlen_attn",
        f"torch {torch.__version__} was built without flash attention",
        "Triton is not installed",
    )


def test_triton_stays_off_other_devices(monkeypatch):
    install(monkeypatch, "triton")
    assert probe().rejected[-1] == "the Triton kernel does not run on cpu"


@pytest.mark.parametrize("call", [standin.varlen_of_2_13, standin.varlen_before_groups])
def test_varlen_is_called_as_its_signature_allows(monkeypatch, call):
    install_varlen(monkeypatch, call)
    backend = probe()
    assert backend.name.startswith(f"varlen_attn (torch {torch.__version__})")
    assert_same_attention(backend.kernel)


def test_a_varlen_without_lengths_is_passed_over(monkeypatch):
    install_varlen(monkeypatch, standin.varlen_of_2_10)
    backend = probe()
    assert backend.kernel is plain
    assert "has no scale, seqused_k, window_size" in backend.rejected[1]


def test_the_flash_operator_is_called_as_torch_declares_it(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", standin.flash_operator, "CPU")
        backend = probe()
        assert backend.name.startswith(f"flash operator (torch {torch.__version__})")
        assert_same_attention(backend.kernel)


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_kernel_that_is_wrong_for_some_numbers_of_queries_is_passed_over(monkeypatch, tokens):
    def call(q, *args, return_softmax_lse=False, **options):
        output, lse = standin.flash_attn_with_kvcache(q, *args, **options)
        return output * (2 if q.shape[1] == tokens else 1), lse

    install(monkeypatch, "flash_attn", flash_attn_with_kvcache=call)
    assert f"wrong attention outputs ({tokens} queries" in probe().rejected[0]


def test_flash_attn_is_preferred(monkeypatch):
    install_varlen(monkeypatch, standin.varlen_of_2_13)
    install(monkeypatch, "flash_attn", flash_attn_with_kvcache=standin.flash_attn_with_kvcache)
    backend = probe()
    assert backend.name.startswith("flash-attn of unknown version")
    assert_same_attention(backend.kernel)


def test_a_flash_attn_too_old_for_log_sum_exps_is_passed_over(monkeypatch):
    install(monkeypatch, "flash_attn", flash_attn_with_kvcache=lambda q, k_cache, v_cache: None)
    assert "too old" in probe().rejected[0]


def test_a_log_sum_exp_in_powers_of_two_is_recognised(monkeypatch):
    call = standin.in_powers_of_two(standin.flash_attn_with_kvcache)
    install(monkeypatch, "flash_attn", flash_attn_with_kvcache=call)
    backend = probe()
    assert backend.name.startswith("flash-attn")
    assert_same_attention(backend.kernel)


def broken(change):
    def call(*args, return_softmax_lse=False, **options):
        output, lse = standin.flash_attn_with_kvcache(*args, **options)
        return change(output, lse)

    return call


def failing(output, lse):
    raise RuntimeError("no kernel image is available\nand more")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda output, lse: (output * 1.2, lse), "wrong attention outputs"),
        (lambda output, lse: (output, lse + 1), "unknown base or layout"),
        (failing, "RuntimeError: no kernel image is available"),
    ],
)
def test_a_kernel_that_is_wrong_or_fails_is_passed_over(monkeypatch, change, reason):
    install(monkeypatch, "flash_attn", flash_attn_with_kvcache=broken(change))
    backend = probe()
    assert backend.kernel is plain
    assert reason in backend.rejected[0]
    assert "\n" not in backend.rejected[0]


def assert_same_attention(kernel):
    """Rows of unequal length, cut out of a larger buffer, with and without the causal square."""
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(4, 5, 4, 32, generator=generator)
    buffers = torch.randn(2, 4, 40, 32, generator=generator)
    keys, values = buffers[:, :, 8:29]
    lengths = torch.tensor([21, 7, 12, 5], dtype=torch.int32)
    for causal in (False, True):
        output, lse = kernel(query, keys, values, lengths, causal, 0.2)
        expected, expected_lse = plain(query, keys, values, lengths, causal, 0.2)
        assert torch.allclose(output, expected, atol=1e-5)
        assert torch.allclose(lse, expected_lse, atol=1e-5)


def test_plain_takes_queries_in_blocks(monkeypatch):
    query, keys, values = torch.randn(3, 2, 37, 3, 16, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([37, 37], dtype=torch.int32)
    keys, values = keys[:, :, 0], values[:, :, 0]
    whole = plain(query, keys, values, lengths, True, 0.25)
    monkeypatch.setattr(flash, "SCRATCH_BYTES", 10 * 2 * 3 * 37 * 4)
    for one, other in zip(whole, plain(query, keys, values, lengths, True, 0.25), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


EXACT = torch.nn.functional.scaled_dot_product_attention


def install_causal(monkeypatch, factor):
    def causal(*inputs):
        return EXACT(*inputs, is_causal=True) * factor

    install(monkeypatch, "triton")
    install(monkeypatch, "namm_runtime.attention.kernels.causal", causal=causal, WIDTHS=(32,))


def test_a_scorers_kernel_is_taken_if_it_is_right(monkeypatch):
    install_causal(monkeypatch, factor=1.0)
    _, kernel = backends._triton_causal(CPU)
    inputs = torch.randn(3, 1, 2, 20, 16)  # a width that the kernel is not for
    assert torch.equal(kernel(*inputs), EXACT(*inputs, is_causal=True))


def test_a_scorers_kernel_that_is_wrong_is_passed_over(monkeypatch):
    install_causal(monkeypatch, factor=1.01)
    with pytest.raises(flash.Unavailable, match="wrong causal attention"):
        backends._triton_causal(CPU)


def test_a_cpu_scores_in_torch():
    kernel, rejected = backends.causal(CPU)
    inputs = torch.randn(3, 1, 2, 20, 8)
    assert rejected == ()
    assert torch.equal(kernel(*inputs), EXACT(*inputs, is_causal=True))
