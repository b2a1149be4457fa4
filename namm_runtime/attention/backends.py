"""Select the attention kernel and the second pass for a device by trying them.

Every candidate is verified against plain torch before it is used.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module, util
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from namm_runtime.attention.columns import ColumnSource, Fold, fold_tiles
from namm_runtime.attention.flash import (
    Kernel,
    Unavailable,
    flash_attn,
    flash_operator,
    plain,
    varlen,
    version,
)
from namm_runtime.attention.spectrogram import BINS, HOP, Spectrogram

PREFERENCE = (flash_attn, varlen, flash_operator)
Causal = Callable[[Tensor, Tensor, Tensor], Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Backend:
    """The kernels for attention and for the scorer's second pass.

    Attributes:
        name: names and versions of both, for results.
        rejected: why each preferred candidate was rejected.
    """

    name: str
    kernel: Kernel
    fold: Fold
    rejected: tuple[str, ...] = ()


# The layouts in which libraries return the log-sum-exp of R rows of T queries and G heads (lse, R, T, G).
LSE_LAYOUTS: tuple[Callable[[Tensor, int, int, int], Tensor], ...] = (
    lambda lse, rows, tokens, group: lse.reshape(rows, group, tokens),
    lambda lse, rows, tokens, group: lse.reshape(group, rows, tokens).transpose(0, 1),
    lambda lse, rows, tokens, group: lse.reshape(rows, tokens, group).transpose(1, 2),
)


def select_backend(device: torch.device, dtype: torch.dtype, width: int, group: int) -> Backend | None:
    """The backend for a model on `device`; None on a CPU, where one pass is faster (docs/decisions/002)."""
    return probe(device, dtype, width, group) if device.type == "cuda" else None


@lru_cache
def probe(device: torch.device, dtype: torch.dtype, width: int, group: int) -> Backend:
    """Try kernels and second passes on `device`, best first; use the first of each that is correct.

    Args:
        width: head dimension.
        group: query heads per KV head.
    """
    rejected: list[str] = []
    kernel_name, kernel = _first(
        [partial(verified_kernel, make, device, dtype, width, group) for make in PREFERENCE],
        (f"plain attention (torch {torch.__version__})", plain),
        rejected,
    )
    in_torch: tuple[str, Fold] = ("tiles in torch", fold_tiles)
    fold_name, fold = _first([partial(_triton, device, dtype, width, group)], in_torch, rejected)
    if device.type == "cuda":
        rejected += causal(device)[1]
    return Backend(f"{kernel_name} + {fold_name}", kernel, fold, tuple(rejected))


def _first(
    candidates: list[Callable[[], tuple[str, T]]], fallback: tuple[str, T], rejected: list[str]
) -> tuple[str, T]:
    for candidate in candidates:
        try:
            return candidate()
        except Unavailable as error:
            rejected.append(str(error))
        except Exception as error:  # compilers, drivers and changed signatures raise anything; fall back
            first_line = next(iter(str(error).splitlines()), "")
            rejected.append(f"{type(error).__name__}: {first_line[:200]}")
    return fallback


def verified_kernel(
    make: Callable[[], tuple[str, Kernel]], device: torch.device, dtype: torch.dtype, width: int, group: int
) -> tuple[str, Kernel]:
    """The kernel, converting its log-sum-exp to our layout and base, which small examples determine.

    Libraries differ: FlashInfer uses base 2, and torch documents [T, H] but returns [H, T].

    Raises:
        Unavailable: outputs are wrong, or the log-sum-exp follows no known convention.
    """
    name, raw = make()
    readings = [(layout, base) for layout in LSE_LAYOUTS for base in (1.0, math.log(2))]
    # A single query may run another kernel, and over many slots one that splits the keys.
    for tokens, slots, square in ((3, 6, False), (3, 6, True), (1, 6, False), (1, 6, True), (1, 4096, False)):
        query, keys, values, lengths = _rows(device, dtype, width, group, tokens, slots)
        output, lse = raw(query, keys, values, lengths, square, width**-0.5)
        exact, total = plain(query.double(), keys.double(), values.double(), lengths, square, width**-0.5)
        tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2
        if not torch.allclose(output.double(), exact, atol=tolerance):
            raise Unavailable(f"{name} gives wrong attention outputs ({tokens} queries, causal: {square})")
        readings = [
            (layout, base)
            for layout, base in readings
            if torch.allclose(layout(lse, len(query), tokens, group).double() * base, total, atol=tolerance)
        ]
    if not readings:
        raise Unavailable(f"{name} returns a log-sum-exp of unknown base or layout")
    layout, base = readings[0]

    def kernel(
        query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, causal: bool, scaling: float
    ) -> tuple[Tensor, Tensor]:
        output, lse = raw(query, keys, values, lengths, causal, scaling)
        lse = layout(lse, *query.shape[:3]).float()
        return output, lse if base == 1.0 else lse * base

    return name, kernel


@lru_cache
def causal(device: torch.device) -> tuple[Causal, tuple[str, ...]]:
    """Causal attention of query, key, value [B, H, N, D] fp32 for scorers, and why others were rejected."""
    in_torch: tuple[str, Causal] = ("torch", partial(functional.scaled_dot_product_attention, is_causal=True))
    rejected: list[str] = []
    chosen = _first([partial(_triton_causal, device)] if device.type == "cuda" else [], in_torch, rejected)
    return chosen[1], tuple(rejected)


def _triton_causal(device: torch.device) -> tuple[str, Causal]:
    if util.find_spec("triton") is None:
        raise Unavailable("Triton is not installed")
    module = import_module("namm_runtime.attention.kernels.causal")
    kernel = module.causal
    for width in module.WIDTHS:
        example = torch.randn(2, 2, 150, 3 * width, generator=torch.Generator().manual_seed(0)).to(device)
        example[:, :, ::50] *= 5  # attention sinks, whose large scores reveal inexact products
        query, key, value = example.chunk(3, dim=-1)
        exact = functional.scaled_dot_product_attention(
            query.double(), key.double(), value.double(), is_causal=True
        )
        if not torch.allclose(kernel(query, key, value).double(), exact, atol=1e-3):
            raise Unavailable("the Triton kernel gives wrong causal attention")

    def on_its_device(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if query.requires_grad or query.dtype != torch.float32 or query.shape[-1] not in module.WIDTHS:
            return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        with torch.cuda.device(query.device):  # Triton launches on the current device, not the tensors'
            return cast(Tensor, kernel(query, key, value))

    return "Triton", on_its_device


def _rows(
    device: torch.device, dtype: torch.dtype, width: int, group: int, tokens: int, slots: int
) -> tuple[Tensor, ...]:
    """Queries, keys, values and lengths of two ragged rows, as views of a larger buffer."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, tokens, group, width, generator=generator).to(device, dtype)
    buffers = torch.randn(2, 2, slots + 3, width, generator=generator).to(device, dtype)
    keys, values = buffers[:, :, 2 : 2 + slots]
    return query, keys, values, torch.tensor([slots - 2, slots], dtype=torch.int32, device=device)


def _triton(device: torch.device, dtype: torch.dtype, width: int, group: int) -> tuple[str, Fold]:
    """The Triton kernel of the second pass, if it compiles here and matches torch."""
    if util.find_spec("triton") is None:
        raise Unavailable("Triton is not installed")
    if device.type != "cuda":
        raise Unavailable(f"the Triton kernel does not run on {device.type}")
    fused = import_module("namm_runtime.attention.kernels.spectrogram")
    name = f"Triton {version('triton')}"
    example = _example(device, dtype, width, group)
    folded: list[Tensor] = []
    folds: tuple[Fold, ...] = (fused.fold, fold_tiles)
    for fold in folds:
        ema, carry = (torch.zeros(1, 2, example.seen, floats, device=device) for floats in (BINS, HOP))
        fold(Spectrogram(), example, ema, carry)
        folded.append(ema)
    if not torch.allclose(folded[0], folded[1], rtol=1e-2, atol=1e-4):
        raise Unavailable(f"{name} gives a wrong spectrogram")

    def fold_on_its_device(
        spectrogram: Spectrogram, source: ColumnSource, ema: Tensor, carry: Tensor
    ) -> None:
        with torch.cuda.device(ema.device):  # Triton launches on the current device, not the tensors'
            fused.fold(spectrogram, source, ema, carry)

    return name, fold_on_its_device


def _example(device: torch.device, dtype: torch.dtype, width: int, group: int) -> ColumnSource:
    """32 queries over two ragged heads: enough to exercise every branch of a second pass."""
    generator = torch.Generator().manual_seed(0)
    start, seen = 40, 80
    query = torch.randn(1, 2 * group, 32, width, generator=generator).to(device, dtype)
    key = torch.randn(1, 2, seen, width, generator=generator).to(device, dtype)
    lse = torch.full((1, 2 * group, 32), math.log(seen), device=device)
    lengths = torch.tensor([[start - 7, start]], device=device)
    return ColumnSource(query, key, lse, width**-0.5, lengths, start, seen)
