"""The scorer's second pass on a GPU: from queries, keys and log-sum-exp to the spectrogram, in one kernel.

Key-stationary, like the dK/dV half of a flash backward pass: a program holds one tile of keys and loops over
the queries 16 at a time, in text order. Intermediate results (scores, probabilities, the mean over a group of
heads, a frame's spectrum) stay in registers; K and the state are read once, Q once per tile.

The 32-point DFT is a product with a fixed basis. A real signal's spectrum has 32 real numbers: 17 cosines and
15 sines. The last cosine is stored in place of the sine of bin 0, which is always zero, so two 16 × 16
products suffice.

Verified against double precision on an H200 and under the Triton interpreter, and compiled for sm_80 without
a GPU (docs/decisions/006).
"""

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from namm_runtime.attention.columns import ColumnSource
from namm_runtime.attention.kernels import LOG2_E
from namm_runtime.attention.spectrogram import BINS, HOP, Spectrogram, dft_basis

PRECISIONS = ("ieee", "tf32x3", "tf32")


def fold(
    spectrogram: Spectrogram, source: ColumnSource, ema: Tensor, carry: Tensor, precision: str | None = None
) -> None:
    """Fold n queries (a multiple of 16) into `ema` [B, Hkv, N ≥ seen, 17] and `carry` [… 16], fp32, in place.

    Gives the same numbers as `Spectrogram.fold` over the columns for every slot in use; tiles whose slots are
    all unused are left alone.

    Args:
        precision: of the DFT's products, one of PRECISIONS. By default exact for fp32 inputs, else tf32x3;
            tf32 has errors of about 1e-4. Scores use the inputs' precision and accumulate in fp32.

    Raises:
        ValueError: a shape or layout that the kernel does not support.
    """
    batch, heads, _, width = source.key.shape
    queries, group = source.queries, source.group
    if queries % HOP or not queries:
        raise ValueError(f"the number of queries must be a positive multiple of {HOP}, not {queries}")
    if width < 16 or width & (width - 1):
        raise ValueError(f"the head dimension must be a power of two of at least 16, not {width}")
    if source.query.stride(-1) != 1 or source.key.stride(-1) != 1:
        raise ValueError("the last dimension of query and key must be contiguous")
    if ema.stride(-1) != 1 or carry.stride(-1) != 1 or ema.shape[-1] != BINS or carry.shape[-1] != HOP:
        raise ValueError(f"ema {tuple(ema.shape)} or carry {tuple(carry.shape)} has an unsupported layout")
    shape = constants(source.key.dtype, width, group, precision)
    fade = spectrogram.gamma**HOP
    lse = source.lse.contiguous()
    _fold[(triton.cdiv(source.seen, shape["TILE"]), batch * heads)](
        source.query,
        source.key,
        lse,
        ema,
        carry,
        source.lengths.contiguous(),
        _basis(str(ema.device)),
        *source.query.stride()[:3],
        *source.key.stride()[:3],
        *lse.stride()[:2],
        *ema.stride()[:3],
        *carry.stride()[:3],
        heads,
        source.start,
        source.seen,
        queries,
        source.scaling * LOG2_E,
        fade,
        1 - fade,
        **shape,
    )


def constants(dtype: torch.dtype, width: int, group: int, precision: str | None = None) -> dict[str, Any]:
    """The kernel's compile-time constants. Tiles are as large as the registers of sm_80 and sm_90 allow."""
    single = dtype == torch.float32  # exact fp32 products do not use tensor cores, and need more registers
    return {
        "GROUP": group,
        "PADDED": triton.next_power_of_2(group),
        "WIDTH": width,
        "TILE": 16 if single else 128,
        "QK": "ieee" if single else "tf32",  # products of half-precision numbers are exact either way
        "DFT": precision or ("ieee" if single else "tf32x3"),
        "num_warps": 4 if single else 8,
    }


@lru_cache
def _basis(device: str) -> Tensor:
    """[4, 16 samples, 16 bins]: cosines and sines over the older half of a frame, then over the newer."""
    cosines, sines = dft_basis(torch.float64).view(2, BINS, 2 * HOP)
    sines = torch.cat((cosines[-1:], sines[1:-1]))  # bin 16 in the place of bin 0's sine, which is zero
    both = torch.stack((cosines[:-1], sines)).view(2, HOP, 2, HOP)  # cosine or sine, bin, hop, sample
    return both.permute(2, 0, 3, 1).reshape(4, HOP, HOP).to(torch.float32).contiguous().to(device)


@triton.jit(do_not_specialize=["start", "seen", "queries"])  # type: ignore[untyped-decorator]
def _fold(  # type: ignore[no-untyped-def]  # Triton accepts no annotations but its own
    query,  # [B, Hq, n, D]
    key,  # [B, Hkv, C, D]
    lse,  # [B, Hq, n]
    ema,  # [B, Hkv, C, 17]
    carry,  # [B, Hkv, C, 16]
    lengths,  # [B, Hkv]
    basis,  # [4, 16, 16]
    query_batch,
    query_head,
    query_token,
    key_batch,
    key_head,
    key_slot,
    lse_batch,
    lse_head,
    ema_batch,
    ema_head,
    ema_slot,
    carry_batch,
    carry_head,
    carry_slot,
    heads,
    start,
    seen,
    queries,
    scale,
    fade,
    gain,
    GROUP: tl.constexpr,
    PADDED: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    QK: tl.constexpr,
    DFT: tl.constexpr,
):
    first_slot = tl.program_id(0) * TILE
    row = tl.program_id(1)
    batch = (row // heads).to(tl.int64)
    head = (row % heads).to(tl.int64)
    length = tl.load(lengths + row)
    if (first_slot >= length) & (first_slot + TILE <= start):
        return  # no slot of this tile holds a token

    slots = first_slot + tl.arange(0, TILE)
    inside = slots < seen
    kept = inside & (slots < length)
    pending = inside & (slots >= start)
    oldest = seen - queries  # slot of the oldest query

    floats = tl.arange(0, WIDTH)
    key += batch * key_batch + head * key_head
    keys = tl.load(key + slots[:, None] * key_slot + floats[None, :], mask=inside[:, None], other=0.0)

    bins = tl.arange(0, 16)
    ema += batch * ema_batch + head * ema_head
    carry += batch * carry_batch + head * carry_head
    ema_at = ema + slots[:, None] * ema_slot + bins[None, :]
    carry_at = carry + slots[:, None] * carry_slot + bins[None, :]
    lowest = bins[None, :] == 0
    # Bins 0 … 15, and bin 16 in the first column of `faded_last`.
    faded = tl.load(ema_at, mask=inside[:, None], other=0.0)
    faded_last = tl.load(ema_at + 16, mask=inside[:, None] & lowest, other=0.0)
    older = tl.load(carry_at, mask=inside[:, None], other=0.0)

    square = bins[:, None] * 16 + bins[None, :]
    older_cosines = tl.load(basis + square)
    older_sines = tl.load(basis + 256 + square)
    newer_cosines = tl.load(basis + 512 + square)
    newer_sines = tl.load(basis + 768 + square)

    # One operand holds 16 queries of every head in the group, head by head.
    columns = tl.arange(0, PADDED * 16)
    in_group = columns // 16 < GROUP
    q_head = head * GROUP + columns // 16
    query += batch * query_batch
    lse += batch * lse_batch
    # Keys as new as these queries start at their own diagonal: no older query sees them.
    for block in range(tl.maximum(first_slot - oldest, 0) // 16, queries // 16):
        token = block * 16 + columns % 16
        q = tl.load(
            query + q_head[:, None] * query_head + token[:, None] * query_token + floats[None, :],
            mask=in_group[:, None],
            other=0.0,
        )
        total = tl.load(lse + q_head * lse_head + token, mask=in_group, other=0.0)
        scores = tl.dot(keys, tl.trans(q), input_precision=QK)
        weights = tl.exp2(scores * scale - total[None, :] * 1.4426950408889634)
        causal = pending[:, None] & (slots[:, None] <= oldest + token[None, :])
        weights = tl.where((kept[:, None] | causal) & in_group[None, :], weights, 0.0)
        newer = tl.sum(tl.reshape(weights, (TILE, PADDED, 16)), axis=1) / GROUP
        real = tl.dot(older, older_cosines, input_precision=DFT)
        real = tl.dot(newer, newer_cosines, acc=real, input_precision=DFT)
        imaginary = tl.dot(older, older_sines, input_precision=DFT)
        imaginary = tl.dot(newer, newer_sines, acc=imaginary, input_precision=DFT)
        magnitude = tl.sqrt(real * real + tl.where(lowest, 0.0, imaginary * imaginary))
        faded = fade * faded + gain * magnitude
        faded_last = fade * faded_last + gain * tl.abs(imaginary)
        older = newer

    tl.store(ema_at, faded, mask=inside[:, None])
    tl.store(ema_at + 16, faded_last, mask=inside[:, None] & lowest)
    tl.store(carry_at, older, mask=inside[:, None])
