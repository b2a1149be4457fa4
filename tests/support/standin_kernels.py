"""Attention libraries that need a GPU, as their signatures promise them, computed by plain torch on the CPU.

Each stand-in loops over sequences exactly as its library's arguments describe them, so that offsets, lengths,
strides and conventions of a call are tested where the kernel itself cannot run.
"""

import math
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor


def _attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """query [T, Hq, D] over key and value [S, Hkv, D] → [T, Hq, D] and the log-sum-exp [T, Hq]."""
    group = query.shape[1] // key.shape[1]
    key, value = (tensor.float().repeat_interleave(group, dim=1) for tensor in (key, value))
    scores = torch.einsum("thd,shd->ths", query.float(), key) * scale
    if causal:  # aligned with the last key
        tokens, slots = query.shape[0], key.shape[0]
        later = torch.ones(tokens, slots, dtype=torch.bool).triu_(slots - tokens + 1)
        scores.masked_fill_(later.unsqueeze(1), -torch.inf)
    output = torch.einsum("ths,shd->thd", scores.softmax(dim=-1).nan_to_num(), value)
    return output.to(query.dtype), scores.logsumexp(dim=-1)


class AuxRequest(NamedTuple):
    lse: bool = False


def _varlen(query: Tensor, key: Tensor, value: Tensor, bounds: Any, **options: Any) -> tuple[Tensor, Tensor]:
    cu_q, cu_k, max_q, max_k = bounds
    assert cu_q.dtype == cu_k.dtype == options["seqused_k"].dtype == torch.int32
    assert int(cu_k[-1]) == key.shape[0] == value.shape[0]
    outputs, sums = [], []
    for row in range(cu_q.shape[0] - 1):
        q = query[cu_q[row] : cu_q[row + 1]]
        used = int(options["seqused_k"][row])
        assert q.shape[0] <= max_q
        assert used <= max_k
        begin = int(cu_k[row])
        k, v = key[begin : begin + used], value[begin : begin + used]
        output, lse = _attention(q, k, v, options["scale"], options["window_size"] == (-1, 0))
        outputs.append(output)
        sums.append(lse)
    # Documented as [T, H], returned as [H, T].
    return torch.cat(outputs), torch.cat(sums).T.contiguous()


def varlen_of_2_13(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
    seqused_k=None,
    block_table=None,
    num_splits=None,
):
    assert enable_gqa
    assert num_splits == 1
    assert return_aux.lse
    bounds = (cu_seq_q, cu_seq_k, max_q, max_k)
    return _varlen(query, key, value, bounds, scale=scale, window_size=window_size, seqused_k=seqused_k)


def varlen_before_groups(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
    seqused_k=None,
):
    bounds = (cu_seq_q, cu_seq_k, max_q, max_k)
    return _varlen(query, key, value, bounds, scale=scale, window_size=window_size, seqused_k=seqused_k)


def varlen_of_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None): ...


def flash_operator(
    query,
    key,
    value,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    return_debug_mask,
    *,
    scale=None,
    window_size_left=None,
    window_size_right=None,
    seqused_k=None,
    **_,
):
    """aten::_flash_attention_forward of torch 2.5 to 2.13."""
    assert dropout_p == 0
    assert not return_debug_mask
    window = (-1, 0) if is_causal else (-1, -1)
    bounds = (cum_seq_q, cum_seq_k, max_q, max_k)
    output, lse = _varlen(query, key, value, bounds, scale=scale, window_size=window, seqused_k=seqused_k)
    return output, lse, torch.empty(2), torch.empty(0), torch.empty(0)


def flash_attn_with_kvcache(
    q,
    k_cache,
    v_cache,
    k=None,
    v=None,
    cache_seqlens=None,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    num_splits=0,
    return_softmax_lse=False,
):
    """flash-attn 2: q [B, T, Hq, D], caches [B, S, Hkv, D] → [B, T, Hq, D] and [B, Hq, T]."""
    assert cache_seqlens.dtype == torch.int32
    rows = [
        _attention(q[row], k_cache[row, :used], v_cache[row, :used], softmax_scale, causal)
        for row, used in enumerate(cache_seqlens.tolist())
    ]
    outputs, sums = zip(*rows, strict=True)
    return torch.stack(outputs), torch.stack(sums).transpose(1, 2)


def in_powers_of_two(call: Any) -> Any:
    def converted(*args: Any, return_softmax_lse: bool = False, **options: Any) -> Any:
        output, lse = call(*args, return_softmax_lse=return_softmax_lse, **options)
        return output, lse / math.log(2)

    return converted


def module(name: str, **members: Any) -> ModuleType:
    """A module to be put into sys.modules, findable like an installed one."""
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(members)
    return made
