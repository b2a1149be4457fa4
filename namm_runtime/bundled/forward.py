"""The training forward pass: the model's own weights, with the cache shrunk before the questions.

Equal to `LlamaForCausalLM` where no budget is given (a test compares them). transformers' forward neither
returns unrotated keys nor lets a mask depend on them, and training for a small cache needs both.
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
    model: LlamaForCausalLM, ids: Tensor, question_starts: Tensor, budget: int | None = None
) -> Trace:
    """Run `ids` [B, L]; with a budget, questions see only so many of the document's keys in each KV head.

    The keys that stay are those least like the mean key (KeyDiff, arXiv 2504.15364), as a serving policy
    would choose. The choice itself carries no gradient. `question_starts` [B] is where each document ends.
    """
    inner, config = model.model, model.config
    batch, length = ids.shape
    group = config.num_attention_heads // config.num_key_value_heads
    hidden = inner.embed_tokens(ids)
    cos, sin = inner.rotary_emb(hidden, torch.arange(length)[None])  # [1, L, D]
    first = int(question_starts.min())
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
        if budget is None:
            out = functional.scaled_dot_product_attention(rotated_query, k, v, is_causal=True)
        else:
            mask = _question_mask(key, question_starts, first, budget).repeat_interleave(group, 1)
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


@torch.no_grad()
def _question_mask(keys: Tensor, question_starts: Tensor, first: int, budget: int) -> Tensor:
    """Which keys the rows from `first` on may see: [B, Hkv, L - first, L] bool."""
    length = keys.shape[2]
    places = torch.arange(length)
    document = places[None] < question_starts[:, None]  # [B, L]
    similarity = key_similarity(keys, document).masked_fill(~document[:, None], torch.inf)
    kept = torch.zeros_like(similarity, dtype=torch.bool)
    kept.scatter_(2, similarity.topk(min(budget, length), 2, largest=False).indices, True)
    causal = places[None] <= places[first:, None]  # [L - first, L]
    visible = (kept | ~document[:, None])[:, :, None] | document[:, None, first:, None]
    return visible & causal


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos[:, None] + turned * sin[:, None]
