"""The forward pass for training: the model's own weights, with the cache shrunk before the questions.

Equal to `LlamaForCausalLM` if nothing is left out (a test compares them). The forward pass of transformers
neither returns unrotated keys nor accepts a mask for some of the rows, and training for a small cache needs
both.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from namm_runtime.engine.memory import CHUNK
from namm_runtime.training.circuit_init import MATCH_LAYER

Mistakes = Literal["random", "keys", "attention"]

_SAMPLED_QUERIES = 32


@dataclass(frozen=True, slots=True)
class View:
    """A shrunken cache.

    Policies do not err at random: the unneeded tokens they keep are those most similar to needed ones, and in
    a million tokens there are very many. A model has to answer correctly next to them.

    Attributes:
        kept: [B, L] bool, tokens that every head keeps for the questions.
        before: tokens kept while the document is read, in layers before the match layer; None if these see
            all of it, and keep the same tokens as other layers for the questions.
        share: share of a document's tokens that each head keeps in addition.
        by: how the additional tokens are chosen: least similar to the mean key, or attended to most.
    """

    kept: Tensor
    before: Tensor | None = None
    share: float = 0.0
    by: Mistakes = "random"


@dataclass(slots=True)
class Trace:
    """Intermediate results of a pass; lists have one entry per layer."""

    hidden: Tensor  # [B, L, hidden], after the final norm
    streams: list[Tensor]  # [B, L, hidden], as they enter the layer
    keys: list[Tensor]  # [B, Hkv, L, D], unrotated
    rotated_queries: list[Tensor]  # [B, H, L, D]
    rotated_keys: list[Tensor]  # [B, Hkv, L, D]


def traced_forward(
    model: LlamaForCausalLM,
    ids: Tensor,
    question_starts: Tensor,
    view: View | None = None,
    positions: Tensor | None = None,
) -> Trace:
    """Run `ids` [B, L]; with a view, questions see only the part of the document that it keeps.

    `question_starts` [B] is where each document ends; `positions` [L] default to 0, 1, 2, ...
    """
    inner, config = model.model, model.config
    batch, length = ids.shape
    group = config.num_attention_heads // config.num_key_value_heads
    hidden = inner.embed_tokens(ids)
    positions = torch.arange(length) if positions is None else positions
    cos, sin = inner.rotary_emb(hidden, positions[None])  # [1, L, D]
    first = int(question_starts.min())
    document = torch.arange(length) < question_starts[:, None]  # [B, L]
    trace = Trace(hidden, [], [], [], [])
    for index, layer in enumerate(inner.layers):
        trace.streams.append(hidden)
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
        if view is None:
            out = functional.scaled_dot_product_attention(rotated_query, k, v, is_causal=True)
        elif view.before is not None and index < MATCH_LAYER:
            kept = _kept_by_heads(view, view.before, document, key, rotated_query, rotated_key)
            mask = _reading_mask(kept, document).repeat_interleave(group, 1)
            out = functional.scaled_dot_product_attention(rotated_query, k, v, attn_mask=mask)
        else:
            kept = _kept_by_heads(view, view.kept, document, key, rotated_query, rotated_key)
            mask = _question_mask(kept, document, first).repeat_interleave(group, 1)
            # Only rows from the first question on need the mask, which would be slow for the whole document.
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
    """Cosine similarity of each key to the mean of the counted keys' directions: KeyDiff's score, negated.

    keys [B, Hkv, L, D], counted [B, L] bool -> [B, Hkv, L].
    """
    directions = functional.normalize(keys, dim=-1)
    mean = functional.normalize((directions * counted[:, None, :, None]).sum(2, keepdim=True), dim=-1)
    return (directions * mean).sum(-1)


def scores_from(rows: Tensor, rotated_query: Tensor, rotated_key: Tensor) -> Tensor:
    """Scaled scores [B, H, S, L] of keys [B, Hkv, L, D] for queries [B, H, L, D] at S rows; masked: -inf."""
    group = rotated_query.shape[1] // rotated_key.shape[1]
    scores = rotated_query[:, :, rows] @ rotated_key.repeat_interleave(group, 1).transpose(2, 3)
    unseen = torch.arange(rotated_key.shape[2]) > rows[:, None]
    scaled: Tensor = (scores * rotated_key.shape[-1] ** -0.5).masked_fill(unseen, -torch.inf)
    return scaled


def attention_from(rows: Tensor, rotated_query: Tensor, rotated_key: Tensor) -> Tensor:
    """Total attention of queries [B, H, L, D] at some rows to keys [B, Hkv, L, D] → [B, H, L]."""
    return scores_from(rows, rotated_query, rotated_key).softmax(-1).sum(2)


@torch.no_grad()
def _kept_by_heads(
    view: View, needed: Tensor, document: Tensor, key: Tensor, rotated_query: Tensor, rotated_key: Tensor
) -> Tensor:
    """[B, Hkv, L] bool; keys are [B, Hkv, L, D] and the queries [B, H, L, D]."""
    kept = needed[:, None].expand(-1, key.shape[1], -1)
    count = int(view.share * document.sum(1).min())
    if view.by == "random" or count == 0:
        return kept
    if view.by == "keys":
        scores = -key_similarity(key, document)
    else:
        scores = _looked_at(document, rotated_query, rotated_key)
    rest = document & ~needed
    best = scores.masked_fill(~rest[:, None], -torch.inf).topk(count).indices
    return kept.scatter(2, best, torch.ones_like(best, dtype=torch.bool))


def _looked_at(document: Tensor, rotated_query: Tensor, rotated_key: Tensor) -> Tensor:
    """Total attention of a sample of the document's later queries to each key → [B, Hkv, L]."""
    end = int(document.sum(1).min())
    rows = torch.linspace(end // 2, end - 1, _SAMPLED_QUERIES).long()
    group = rotated_query.shape[1] // rotated_key.shape[1]
    return torch.unflatten(attention_from(rows, rotated_query, rotated_key), 1, (-1, group)).sum(2)


def _question_mask(kept: Tensor, document: Tensor, first: int) -> Tensor:
    """The tokens visible to rows from `first` on: [B, Hkv, L - first, L] bool."""
    places = torch.arange(kept.shape[2])
    causal = places[None] <= places[first:, None]  # [L - first, L]
    visible = (kept | ~document[:, None])[:, :, None] | document[:, None, first:, None]
    return visible & causal


def _reading_mask(kept: Tensor, document: Tensor) -> Tensor:
    """The tokens visible to each row if every eviction drops all but the kept ones: [B, Hkv, L, L] bool."""
    places = torch.arange(kept.shape[2])
    since = places // CHUNK * CHUNK  # the first position after the last eviction before a row
    visible = (kept | ~document[:, None])[:, :, None] | (places >= since[:, None])
    return visible & (places <= places[:, None])


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos[:, None] + turned * sin[:, None]
