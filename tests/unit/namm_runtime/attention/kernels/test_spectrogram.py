"""The Triton kernel of the second pass, interpreted on the CPU, against double precision."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.gpu.checks import Case, error_through_evictions, fold_error, make_case, relative
from namm_runtime import policies
from namm_runtime.attention.backends import Backend
from namm_runtime.attention.columns import fold_tiles
from namm_runtime.attention.flash import plain
from namm_runtime.attention.spectrogram import BINS, HOP, Spectrogram
from namm_runtime.engine.memory import Memory
from tests.support.interpreted import kernel_module

kernel = kernel_module("namm_runtime.attention.kernels.spectrogram")


@pytest.mark.parametrize("group", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("width", [32, 64, 128])
def test_fused_features_equal_double_precision(width, group):
    assert fold_error(kernel.fold, make_case(width=width, group=group)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("width", "group"), [(32, 8), (64, 4), (128, 1)])
def test_half_precision_inputs_add_up_in_single(dtype, width, group):
    """The oracle sees the same rounded inputs, so that what is left is the arithmetic of the kernel."""
    assert fold_error(kernel.fold, make_case(dtype=dtype, width=width, group=group)) < 1e-5


LAYOUTS = [  # start, pending, queries
    (0, 16, 16),  # the very first tokens
    (0, 208, 208),  # tiles that begin at their own diagonal
    (300, 32, 16),  # whole tiles that hold no token
    (64, 128, 128),  # everything on the edge of a tile
    (37, 99, 80),  # nothing on any edge
]
DTYPES = [torch.float32, torch.bfloat16]
LARGE = [(torch.float32, 90, 60, 48), (torch.bfloat16, 600, 300, 288)]  # more than one tile of each kind


@pytest.mark.parametrize(
    ("dtype", "start", "pending", "queries"),
    [*((dtype, *layout) for dtype in DTYPES for layout in LAYOUTS), *LARGE],
)
def test_every_layout_of_slots(dtype, start, pending, queries):
    """Tiles are of 16 slots in fp32 and of 128 in half precision."""
    case = make_case(dtype=dtype, start=start, pending=pending, queries=queries)
    assert fold_error(kernel.fold, case) < 1e-5


def test_the_comparison_can_fail():
    def wrong(spectrogram, source, ema, carry):
        kernel.fold(spectrogram, replace(source, seen=source.seen - 1), ema, carry)

    assert fold_error(wrong, make_case()) > 1e-3


def state(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    shape = case.source.key.shape[:3]
    return torch.zeros(*shape, BINS), torch.zeros(*shape, HOP)


@pytest.mark.parametrize("fold", [kernel.fold, fold_tiles])
@pytest.mark.parametrize("sizes", [[64], [32, 32], [16, 48], [16] * 4])
def test_grouping_of_queries_does_not_matter(fold, sizes):
    case = make_case(pending=64, queries=64)
    whole, pieces = state(case), state(case)
    kernel.fold(Spectrogram(), case.source, *whole)
    source, end = case.source, 0
    for size in sizes:
        begin, end = end, end + size
        piece = replace(
            source,
            query=source.query[:, :, begin:end],
            lse=source.lse[:, :, begin:end],
            seen=source.seen - 64 + end,
        )
        fold(Spectrogram(), piece, *pieces)
    for one, other in zip(whole, pieces, strict=True):
        # Kernel and tiles round their exponentials differently: a few units in the last place of fp32 add up.
        assert relative(one[:, :, : source.seen], other[:, :, : source.seen].double(), case.used) < 5e-6


def test_slots_beyond_the_newest_are_left_alone():
    case = make_case()
    ema, carry = (tensor.fill_(7) for tensor in state(case))
    kernel.fold(Spectrogram(), case.source, ema, carry)
    assert (ema[:, :, case.source.seen :] == 7).all()
    assert (carry[:, :, case.source.seen :] == 7).all()


def test_state_may_be_a_view_of_a_larger_cache():
    case = make_case()
    ema, carry = state(case)
    wide = torch.zeros(*ema.shape[:2], ema.shape[2] + 50, BINS)
    kernel.fold(Spectrogram(), case.source, ema, carry)
    kernel.fold(Spectrogram(), case.source, wide[:, :, : ema.shape[2]], torch.zeros_like(carry))
    assert torch.equal(wide[:, :, : ema.shape[2]], ema)


def test_what_the_kernel_was_not_made_for_is_refused():
    case = make_case(width=48)
    with pytest.raises(ValueError, match="power of two"):
        kernel.fold(Spectrogram(), case.source, *state(case))
    case = make_case(queries=40)
    with pytest.raises(ValueError, match="multiple of 16"):
        kernel.fold(Spectrogram(), case.source, *state(case))


def test_evictions_between_updates():
    assert error_through_evictions(kernel.fold) < 1e-5


def test_a_document_is_read_as_in_one_pass(model, make_scorer, ids):
    def memory(backend):
        return Memory(model, policies.make("namm", 96, make_scorer()), 96, 64, backend=backend)

    one, fused = memory(None), memory(Backend("interpreted", plain, kernel.fold))
    for piece in ids[:, :400].split([256, 7, 9, 128], dim=1):
        assert torch.allclose(one.feed(piece), fused.feed(piece), atol=1e-4)
    for a, b in zip(one.cache.layers, fused.cache.layers, strict=True):
        assert torch.equal(a.positions[:, :, : a.used], b.positions[:, :, : b.used])
        assert torch.allclose(a.state["ema"], b.state["ema"], atol=1e-6)


@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_for_gpus_that_are_not_here(capability):
    """In a process of its own, without the interpreter: nothing may spill out of registers."""
    compiled = f"compiled({capability}, torch.bfloat16, 128, 4)"
    command = f"from benchmarks.gpu.compile import *; print(json.dumps({compiled}))"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["registers"] > 0
    assert row["spilled_bytes"] == 0
