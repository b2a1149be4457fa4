"""Attention over independent rows of different lengths, by several libraries and by plain torch.

A kernel attends over the first `lengths` slots of every row, causal or not, and returns output and
log-sum-exp. Heads of unequal length become separate rows, so no kernel needs a mask.

Of the library kernels, `flash_operator` has run on an H200; all three are tested with stand-ins of the same
signature (docs/decisions/006).
"""

import inspect
from importlib import import_module, metadata, util
from typing import Any, Protocol

import torch
from torch import Tensor

from namm_runtime.attention.columns import SCRATCH_BYTES


class Kernel(Protocol):
    """Softmax attention over independent rows.

    Args: query [R, T, G, D]; keys, values [R, S, D], views with any row stride, the same for both;
        lengths [R] int32, slots in use; causal: query i sees slots up to lengths − T + i.

    Returns: output [R, T, G, D] and the natural log-sum-exp [R, G, T] fp32. Rows of length 0: undefined.
    """

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, causal: bool, scaling: float
    ) -> tuple[Tensor, Tensor]: ...


class Unavailable(Exception):
    """This kernel cannot be used here; the message says why."""


def plain(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    """A `Kernel` in torch operations, in fp32 or better, on any device. Scratch: twice SCRATCH_BYTES."""
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
    """The flash-attn package (2.6 or newer): its KV cache call, which takes a length per row."""
    if util.find_spec("flash_attn") is None:
        raise Unavailable("flash-attn is not installed")
    call = getattr(import_module("flash_attn"), "flash_attn_with_kvcache", None)
    if call is None or "return_softmax_lse" not in inspect.signature(call).parameters:
        raise Unavailable("flash-attn is too old: its KV cache call does not return the log-sum-exp")

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
            num_splits=1,  # a fixed order of summation, whatever else is in the batch
            return_softmax_lse=True,
        )
        return output, lse

    return f"flash-attn {version('flash-attn')}", kernel


def varlen() -> tuple[str, Kernel]:
    """torch's variable-length attention, by its signature: the arguments changed from 2.10 to 2.13."""
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
        output, lse = module.varlen_attn(
            *_as_sequences(query, keys, values),
            scale=scaling,
            window_size=(-1, 0) if causal else (-1, -1),
            seqused_k=lengths,
            **options,
        )
        return output.view(query.shape), lse

    return f"varlen_attn (torch {torch.__version__})", kernel


def flash_operator() -> tuple[str, Kernel]:
    """The operator behind `varlen_attn`, which takes lengths even where that does not yet (torch 2.11).

    It chooses itself how many parts it splits a query's keys into, so while decoding, the order of summation
    may depend on the other rows of the batch.
    """
    if not torch.backends.cuda.is_flash_attention_available():
        raise Unavailable(f"torch {torch.__version__} was built without flash attention")
    operator = torch.ops.aten._flash_attention_forward.default
    if "seqused_k" not in {argument.name for argument in operator._schema.arguments}:
        raise Unavailable(f"the flash operator of torch {torch.__version__} takes no lengths")

    def kernel(
        query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, causal: bool, scaling: float
    ) -> tuple[Tensor, Tensor]:
        output, lse, *_ = operator(
            *_as_sequences(query, keys, values),
            0.0,
            causal,
            False,
            scale=scaling,
            seqused_k=lengths,
        )
        return output.view(query.shape), lse

    return f"flash operator (torch {torch.__version__})", kernel


def _as_sequences(
    query: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int, int]:
    """First arguments of torch's variable-length calls: packed rows, their offsets, the maximum lengths."""
    rows, tokens, _, _ = query.shape
    begins = torch.arange(rows + 1, dtype=torch.int32, device=query.device) * tokens
    slots = keys.shape[1]
    keys, values, offsets = _as_one_sequence(keys, values)
    return query.flatten(0, 1), keys, values, begins, offsets, tokens, slots


def _as_one_sequence(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """View rows [R, S, D] of a larger buffer as one sequence [·, 1, D], with each row's offset [R + 1]."""
    rows, slots, width = keys.shape
    stride = keys.stride(0) // width
    if keys.stride() != values.stride() or keys.stride(0) % width or keys.stride(1) != width:
        raise ValueError(f"keys {keys.stride()} and values {values.stride()} do not have the same row layout")
    total = (rows - 1) * stride + slots  # slots between two rows are never read: `lengths` excludes them
    shape, strides = (total, 1, width), (width, width, 1)
    offsets = (torch.arange(rows + 1, device=keys.device) * stride).clamp(max=total).int()
    return keys.as_strided(shape, strides), values.as_strided(shape, strides), offsets


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"
