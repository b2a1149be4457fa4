"""Which attention kernel and which second pass a device offers, found out by trying them.

A kernel answers one call: queries over the first `lengths` slots of every row, with or without the causal
square, output and log-sum-exp. Heads of unequal length are rows of their own, so no kernel needs a mask.

Never run on a GPU so far: `varlen` and `flash_attn` are tested with stand-ins of the same signature, and
every choice checks itself against plain torch before it is used (docs/decisions/006).
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module, metadata, util
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from namm_runtime.attended import SCRATCH_BYTES, Attended, Fold, fold_tiles
from namm_runtime.spectrogram import BINS, HOP, Spectrogram


class Kernel(Protocol):
    """Softmax attention of rows that share nothing.

    Args: query [R, T, G, D]; keys, values [R, S, D], views with any row stride, the same for both;
        lengths [R] int32, slots in use; causal: query i sees slots up to lengths − T + i.

    Returns: output [R, T, G, D] and the natural log-sum-exp [R, G, T] fp32. Rows of length 0: undefined.
    """

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, causal: bool, scaling: float
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Backend:
    """What attention and the scorer's second pass run on.

    Attributes:
        name: both, with versions, for results to say which ran.
        rejected: why each better choice was passed over.
    """

    name: str
    kernel: Kernel
    fold: Fold
    rejected: tuple[str, ...] = ()


class Unavailable(Exception):
    """This choice does not exist here; the text says why."""


# -- kernels -----------------------------------------------------------------------------------------------


def plain(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    """The `Kernel` call in torch operations, in fp32 or better, on any device. Scratch: two SCRATCH_BYTES."""
    rows, tokens, group, width = query.shape
    slots = keys.shape[1]
    dtype = torch.promote_types(query.dtype, torch.float32)
    keys, values = keys.to(dtype), values.to(dtype)
    places = torch.arange(slots, device=query.device)
    outputs, sums = [], []
    block = max(1, SCRATCH_BYTES // (rows * group * slots * 4))
    for begin in range(0, tokens, block):
        end = min(begin + block, tokens)
        q = query[:, begin:end].to(dtype).reshape(rows, -1, width) * scaling
        scores = (q @ keys.transpose(1, 2)).view(rows, end - begin, group, slots)
        visible = lengths.view(rows, 1)
        if causal:
            visible = visible - tokens + torch.arange(begin + 1, end + 1, device=query.device)
        scores.masked_fill_((places >= visible.unsqueeze(-1)).unsqueeze(2), -torch.inf)
        total = scores.logsumexp(dim=-1)
        weights = scores.sub_(total.unsqueeze(-1)).exp_()
        outputs.append((weights.view(rows, -1, slots) @ values).view(rows, end - begin, group, width))
        sums.append(total)
    return torch.cat(outputs, dim=1), torch.cat(sums, dim=1).transpose(1, 2)


def flash_attn() -> tuple[str, Kernel]:
    """The flash-attn package (2.6 or newer), by its cache call, which takes a length for every row."""
    if util.find_spec("flash_attn") is None:
        raise Unavailable("flash-attn is not installed")
    call = getattr(import_module("flash_attn"), "flash_attn_with_kvcache", None)
    if call is None or "return_softmax_lse" not in inspect.signature(call).parameters:
        raise Unavailable("flash-attn is too old to return the log-sum-exp of a cache call")

    def kernel(
        query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, causal: bool, scaling: float
    ) -> tuple[Tensor, Tensor]:
        output, lse = call(
            query,
            keys.unsqueeze(2),
            values.unsqueeze(2),
            cache_seqlens=lengths,
            softmax_scale=scaling,
            causal=causal,
            num_splits=1,  # sums in one order, whatever else is in the batch
            return_softmax_lse=True,
        )
        return output, lse

    return f"flash-attn {_version('flash-attn')}", kernel


def varlen() -> tuple[str, Kernel]:
    """torch's own variable-length attention, whose arguments grew from 2.10 to 2.13: the signature tells."""
    if util.find_spec("torch.nn.attention.varlen") is None:
        raise Unavailable(f"torch {torch.__version__} has no varlen_attn")
    module = import_module("torch.nn.attention.varlen")
    known = inspect.signature(module.varlen_attn).parameters
    missing = {"seqused_k", "scale", "window_size", "return_aux"} - known.keys()
    if missing:
        raise Unavailable(f"varlen_attn of torch {torch.__version__} has no {', '.join(sorted(missing))}")
    options: dict[str, Any] = {"return_aux": module.AuxRequest(lse=True)}
    options |= {name: value for name, value in (("enable_gqa", True), ("num_splits", 1)) if name in known}

    def kernel(
        query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, causal: bool, scaling: float
    ) -> tuple[Tensor, Tensor]:
        rows, tokens, _, _ = query.shape
        slots = keys.shape[1]
        keys, values, offsets = _as_one_sequence(keys, values)
        output, lse = module.varlen_attn(
            query.flatten(0, 1),
            keys,
            values,
            torch.arange(rows + 1, dtype=torch.int32, device=query.device) * tokens,
            offsets,
            tokens,
            slots,
            scale=scaling,
            window_size=(-1, 0) if causal else (-1, -1),
            seqused_k=lengths,
            **options,
        )
        return output.view(query.shape), lse

    return f"varlen_attn (torch {torch.__version__})", kernel


def _as_one_sequence(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [R, S, D] of a larger buffer as one sequence [·, 1, D] and where each row begins in it [R + 1]."""
    rows, slots, width = keys.shape
    stride = keys.stride(0) // width
    if keys.stride() != values.stride() or keys.stride(0) % width or keys.stride(1) != width:
        raise ValueError(f"keys {keys.stride()} and values {values.stride()} are not rows of one layout")
    total = (rows - 1) * stride + slots  # slots between two rows belong to nobody: `lengths` never reach them
    shape, strides = (total, 1, width), (width, width, 1)
    offsets = (torch.arange(rows + 1, device=keys.device) * stride).clamp(max=total).int()
    return keys.as_strided(shape, strides), values.as_strided(shape, strides), offsets


# -- choosing ----------------------------------------------------------------------------------------------

PREFERENCE = (flash_attn, varlen)
T = TypeVar("T")

# How libraries lay out the log-sum-exp of R rows of T queries and G heads; arguments are lse, R, T and G.
LSE_LAYOUTS: tuple[Callable[[Tensor, int, int, int], Tensor], ...] = (
    lambda lse, rows, tokens, group: lse.reshape(rows, group, tokens),
    lambda lse, rows, tokens, group: lse.reshape(group, rows, tokens).transpose(0, 1),
    lambda lse, rows, tokens, group: lse.reshape(rows, tokens, group).transpose(1, 2),
)


def choose(device: torch.device, dtype: torch.dtype, width: int, group: int) -> Backend | None:
    """The backend for a model on `device`; None on a CPU, where one pass is faster (docs/decisions/002)."""
    return probe(device, dtype, width, group) if device.type == "cuda" else None


@lru_cache
def probe(device: torch.device, dtype: torch.dtype, width: int, group: int) -> Backend:
    """Try kernels and second passes on `device`, best first; take the first of each that answers correctly.

    Args:
        width: floats of one head.
        group: query heads that share a KV head.
    """
    rejected: list[str] = []
    kernel_name, kernel = _first(
        [partial(settled, make, device, dtype, width, group) for make in PREFERENCE],
        (f"plain attention (torch {torch.__version__})", plain),
        rejected,
    )
    in_torch: tuple[str, Fold] = ("tiles in torch", fold_tiles)
    fold_name, fold = _first([partial(_triton, device, dtype, width, group)], in_torch, rejected)
    return Backend(f"{kernel_name} + {fold_name}", kernel, fold, tuple(rejected))


def _first(
    candidates: list[Callable[[], tuple[str, T]]], fallback: tuple[str, T], rejected: list[str]
) -> tuple[str, T]:
    for candidate in candidates:
        try:
            return candidate()
        except Unavailable as error:
            rejected.append(str(error))
        except Exception as error:  # a compiler's, a driver's, a signature's: none of them may stop a reading
            first_line = next(iter(str(error).splitlines()), "")
            rejected.append(f"{type(error).__name__}: {first_line}")
    return fallback


def settled(
    make: Callable[[], tuple[str, Kernel]], device: torch.device, dtype: torch.dtype, width: int, group: int
) -> tuple[str, Kernel]:
    """The kernel with its log-sum-exp in our layout and base, as three rows of a small example show them.

    Libraries differ: FlashInfer counts in powers of two, and torch documents [T, H] and returns [H, T].

    Raises:
        Unavailable: outputs are wrong, or no known convention explains the log-sum-exp.
    """
    name, raw = make()
    generator = torch.Generator().manual_seed(0)
    rows, tokens, slots = 2, 3, 6
    query = torch.randn(rows, tokens, group, width, generator=generator).to(device, dtype)
    buffers = torch.randn(2, rows, slots + 3, width, generator=generator).to(device, dtype)
    keys, values = buffers[:, :, 2 : 2 + slots]
    lengths = torch.tensor([slots - 2, slots], dtype=torch.int32, device=device)
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2
    readings = [(layout, base) for layout in LSE_LAYOUTS for base in (1.0, math.log(2))]
    for causal in (False, True):
        output, lse = raw(query, keys, values, lengths, causal, width**-0.5)
        exact, total = plain(query.double(), keys.double(), values.double(), lengths, causal, width**-0.5)
        if not torch.allclose(output.double(), exact, atol=tolerance):
            raise Unavailable(f"{name} computes another attention (causal: {causal})")
        readings = [
            (layout, base)
            for layout, base in readings
            if torch.allclose(layout(lse, rows, tokens, group).double() * base, total, atol=tolerance)
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


def _triton(device: torch.device, dtype: torch.dtype, width: int, group: int) -> tuple[str, Fold]:
    """The Triton kernel of the second pass, if it compiles here and agrees with torch."""
    if util.find_spec("triton") is None:
        raise Unavailable("Triton is not installed")
    if device.type != "cuda":
        raise Unavailable(f"the Triton kernel does not run on {device.type}")
    fused = import_module("namm_runtime.kernels.spectrogram")
    name = f"Triton {_version('triton')}"
    example = _example(device, dtype, width, group)
    folded: list[Tensor] = []
    folds: tuple[Fold, ...] = (fused.fold, fold_tiles)
    for fold in folds:
        ema, carry = (torch.zeros(1, 2, example.seen, floats, device=device) for floats in (BINS, HOP))
        fold(Spectrogram(), example, ema, carry)
        folded.append(ema)
    if not torch.allclose(folded[0], folded[1], rtol=1e-2, atol=1e-4):
        raise Unavailable(f"{name} computes another spectrogram")

    def fold_on_its_device(spectrogram: Spectrogram, attended: Attended, ema: Tensor, carry: Tensor) -> None:
        with torch.cuda.device(ema.device):  # Triton launches on the current one, whatever its tensors say
            fused.fold(spectrogram, attended, ema, carry)

    return name, fold_on_its_device


def _example(device: torch.device, dtype: torch.dtype, width: int, group: int) -> Attended:
    """32 queries over two ragged heads: enough to touch every branch of a second pass."""
    generator = torch.Generator().manual_seed(0)
    start, seen = 40, 80
    query = torch.randn(1, 2 * group, 32, width, generator=generator).to(device, dtype)
    key = torch.randn(1, 2, seen, width, generator=generator).to(device, dtype)
    lse = torch.full((1, 2 * group, 32), math.log(seen), device=device)
    lengths = torch.tensor([[start - 7, start]], device=device)
    return Attended(query, key, lse, width**-0.5, lengths, start, seen)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"
