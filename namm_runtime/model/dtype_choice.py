"""Which dtype a model computes in where none was chosen."""

import time
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from namm_runtime.errors import Refusal

DTYPES = ("auto", "float32", "bfloat16", "float16")
TOKENS = 256  # of the measured products; reading computes hundreds of tokens at once
FASTER = 1.1  # so much faster bf16 has to be, or the more precise fp32 is taken


def choose_dtype(asked: str, config: Any, on_cpu: bool, packed: bool = False) -> str:
    """The dtype to load a model in: `asked`, or for `auto` what suits the device.

    On an accelerator that is the checkpoint's own, and bf16 for one that is unpacked. On a CPU, checkpoints
    in fp32, the bundled models among them, stay in fp32; others are computed in bf16 where that is faster on
    this machine, otherwise in fp32.

    Args:
        config: the model's configuration.
        packed: whether the weights are unpacked from few bits, and have no dtype of their own.

    Raises:
        Refusal: `bad_request` for an unknown dtype.
    """
    if asked not in DTYPES:
        raise Refusal("bad_request", f"unknown dtype '{asked}'; known: {', '.join(DTYPES)}")
    if asked != "auto":
        return asked
    if not on_cpu:
        return "bfloat16" if packed else "auto"
    stored = str(getattr(config, "dtype", None) or "").removeprefix("torch.")
    if stored == "float32":
        return "float32"
    ratio = bfloat16_speedup(config.hidden_size, config.intermediate_size, torch.get_num_threads())
    return "bfloat16" if ratio >= FASTER else "float32"


@lru_cache
def bfloat16_speedup(hidden: int, intermediate: int, threads: int) -> float:
    """How many times as fast as in fp32 a layer's matrix products are in bf16; measured once per process.

    Args:
        threads: number of threads; only distinguishes the results that are kept.
    """
    pairs = {dtype: _operands(hidden, intermediate, dtype) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(pairs, float("inf"))
    for repetition in range(4):
        for dtype, operands in pairs.items():  # in turns, so that other load slows both
            seconds = _seconds(*operands)
            if repetition:  # the first prepares the kernels
                best[dtype] = min(best[dtype], seconds)
    return best[torch.float32] / best[torch.bfloat16]


def _operands(hidden: int, intermediate: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x [T, H] and two weights [I, H], [H, I]."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((TOKENS, hidden), (intermediate, hidden), (hidden, intermediate))
    first, up, down = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return first, up, down


@torch.inference_mode()
def _seconds(x: Tensor, up: Tensor, down: Tensor) -> float:
    begun = time.perf_counter()
    torch.nn.functional.linear(torch.nn.functional.linear(x, up), down)
    return time.perf_counter() - begun
