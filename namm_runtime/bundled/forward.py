"""The training forward pass: the model's own weights, with the cache shrunk before the questions.

Equal to `LlamaForCausalLM` where nothing is left out (a test compares them). transformers' forward neither
returns unrotated keys nor takes a mask for a part of the rows, and training for a small cache needs both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM


@dataclass(slots=True)
class Trace:
    """What a pass leaves behind; one list entry for each layer."""

    hidden: Tensor  # [B, L, hidden], after the final norm
    keys: list[Tensor]  # [B, Hkv, L, D], unrotated
    rotated_queries: list[Tensor]  # [B, H, L, D]
    rotated_keys: list[Tensor]  # [B, Hkv, L, D]


def traced_forward(
    model: LlamaForCausalLM,
    ids: Tensor,
    question_starts: Tensor,
    kept: Tensor | None = None,
    positions: Tensor | None = None,
) -> Trace:
    """Run `ids` [B, L]; where `kept` [B, L] is given, questions see of the document only the tokens it marks.

    `question_starts` [B] is where each document ends; `positions` [L] are 0, 1, 2, ... by default.
    """
    inner, config = model.model, model.config
    batch, length = ids.shape
    group = config.num_attention_heads // config.num_key_value_heads
    hidden = inner.embed_tokens(ids)
    positions = torch.arange(length) if positions is None else positions
    cos, sin = inner.rotary_emb(hidden, positions[None])  # [1, L, D]
    first = int(question_starts.min())
    mask = None if kept is None else _question_mask(kept, question_starts, first)
    trace = Trace(hidden, [], [], [])
    for layer in inner.layers:
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        query, key, value = (
            projection(normed).view(batch, length, -1, attention.head_dim).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        rotated_query, rotated_key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        trace.keys.append(key)
        trace.rotated_queries.append(rotated_query)
        trace.rotated_keys.append(rotated_key)
        k, v = rotated_key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        if mask is None:
            out = functional.scaled_dot_product_attention(rotated_query, k, v, is_causal=True)
        else:
            # Only the rows from the first question on need a mask, which would slow the whole document down.
            head = functional.scaled_dot_product_attention(
                rotated_query[:, :, :first], k[:, :, :first], v[:, :, :first], is_causal=True
            )
            tail = functional.scaled_dot_product_attention(rotated_query[:, :, first:], k, v, attn_mask=mask)
            out = torch.cat([head, tail], 2)
        hidden = hidden + attention.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    trace.hidden = inner.norm(hidden)
    return trace


def key_similarity(keys: Tensor, counted: Tensor) -> Tensor:
    """Cosine of each key with the mean of the counted keys' directions: KeyDiff's score, negated.

    keys [B, Hkv, L, D], counted [B, L] bool -> [B, Hkv, L].
    """
    directions = functional.normalize(keys, dim=-1)
    mean = functional.normalize((directions * counted[:, None, :, None]).sum(2, keepdim=True), dim=-1)
    return (directions * mean).sum(-1)


def _question_mask(kept: Tensor, question_starts: Tensor, first: int) -> Tensor:
    """Which tokens the rows from `first` on may see: [B, 1, L - first, L] bool."""
    places = torch.arange(kept.shape[1])
    document = places[None] < question_starts[:, None]  # [B, L]
    causal = places[None] <= places[first:, None]  # [L - first, L]
    visible = (kept | ~document)[:, None] | document[:, first:, None]
    return (visible & causal)[:, None]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos[:, None] + turned * sin[:, None]
