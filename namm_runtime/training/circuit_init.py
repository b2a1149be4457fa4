"""A structured initialisation: layers 0 to 2 start as circuits instead of noise.

Learning to match a question with an earlier statement from random weights costs a small model most of its
training budget, so this circuit is constructed, and training refines it:

- one embedding coordinate is the same for all tokens, so that rotary angles alone decide what layer 0 attends
  to: heads look 1, 2, 3 or 4.5 tokens back (the last at the 4th and 5th token alike), and write the names
  found there, 16 numbers each, into a block of the residual stream;
- layer 1 looks for an earlier mention of one of a token's predecessors: heads compare the token 1, 2, 3 or
  about 4.5 places back with key tokens, and copy the name before them. The head that looks back to a
  statement's field thus finds the line at the top that asks for it, if there is one;
- layer 2 compares the query token and its 4 predecessors with a key token's 5 predecessors, in rotary pairs
  too slow to be affected by a distance of thousands of tokens, and copies the key token's embedding to the
  output;
- the embedding of a word starts close to that of the same word with a leading space.

Layer 1 is between the others so that a statement can learn whether it matters before layer 2 keeps it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from namm_runtime.training.shapes import HEAD_DIM, ROPE_THETA, Shape

MENTION_LAYER, MATCH_LAYER = 1, 2

# Coordinates of the residual stream: 0 is constant, then token identity, then one block for each offset.
_CONSTANT = 0
# In "Invoice 4821 total: 9310." the record is five tokens before the value: without it, facts with the same
# number and field would be indistinguishable. A half-integer offset attends to two tokens equally.
_PLACES_BACK = (1.0, 2.0, 3.0, 4.5)
_OFFSETS = len(_PLACES_BACK)
_MATCHED_TOKENS = 5
_BLOCK = 16
_SLOW_PAIRS = range(8, 16)
_SLOW_DIMS = torch.tensor([*_SLOW_PAIRS, *(pair + HEAD_DIM // 2 for pair in _SLOW_PAIRS)])  # 16 of a head

# Scores are in nats. The fastest pair separates neighbours (by 10 nats), the slower ones separate a position
# from those some turns away. The sum is kept small, since a key's norm scales all of it.
_OFFSET_SCORES = (20.0, 12.0, 6.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0)
_MENTION_SCORE = 8.0
_MATCH_SCORE = 15.0
_COPY_NORM = 4.0
_TWIN_DISTANCE = 0.5
_NOISE = 0.02


@torch.no_grad()
def initialise(
    model: LlamaForCausalLM, shape: Shape, seed: int, twins: Sequence[tuple[int, int]] = ()
) -> None:
    """Overwrite every weight of a model of this shape, deterministically for a seed.

    `twins` are token ids of words with and without a leading space.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
            weight.normal_(0.0, _NOISE if into_stream else 3 * _NOISE, generator=generator)
        else:
            weight.fill_(1.0)
    embedding = model.model.embed_tokens.weight  # [vocab, hidden]
    width = shape.hidden - 1 - _OFFSETS * _BLOCK
    embedding.zero_()
    embedding[:, _CONSTANT] = 1.0
    embedding[:, 1 : 1 + width] = torch.nn.functional.normalize(
        torch.randn(embedding.shape[0], width, generator=generator)
    )
    for spaced, bare in twins:
        row = embedding[bare, 1 : 1 + width] + _TWIN_DISTANCE * embedding[spaced, 1 : 1 + width]
        embedding[spaced, 1 : 1 + width] = torch.nn.functional.normalize(row, dim=0)
    model.model.norm.weight[_CONSTANT] = 0.0  # it would only shift all logits equally

    naming = _orthogonal(generator, width)[:_BLOCK]  # [16, width]: a token's name, part of its embedding
    _write_offset_layer(model.model.layers[0].self_attn, shape, naming, generator)
    _write_match_layer(model.model.layers[MATCH_LAYER].self_attn, shape, naming, generator)
    _write_mention_layer(model.model.layers[MENTION_LAYER].self_attn, shape, naming, generator)


def constants(model: LlamaForCausalLM) -> Tensor:
    """The embeddings' constant coordinate [vocab], for `hold_constants`.

    In a model trained without holding it, some rows have drifted away from the rest; they get the median.
    """
    column = model.model.embed_tokens.weight[:, _CONSTANT].detach().clone()
    median = column.median()
    return torch.where(column < median / 2, median, column)


@torch.no_grad()
def hold_constants(model: LlamaForCausalLM, column: Tensor) -> None:
    """Undo what an optimiser step did to the constant coordinate.

    Embeddings are tied to the output layer, so training lowers the logits of tokens that are rarely an answer
    through the one coordinate that the whole stream shares. Their keys in layer 0 then point away from all
    others. In a document of a million tokens a key-based policy would keep nothing else in that layer, and
    the model would misread everything.
    """
    model.model.embed_tokens.weight[:, _CONSTANT] = column
    model.model.norm.weight[_CONSTANT] = 0.0


def _write_offset_layer(
    attention: torch.nn.Module, shape: Shape, naming: Tensor, generator: torch.Generator
) -> None:
    query, key, value, output = _weights(attention)
    _quieten((query, key, value, output), generator)
    # After normalisation, the unit constant and the unit identity of an embedding are both sqrt(hidden / 2).
    scale = (shape.hidden / 2) ** 0.5
    name_norm = scale * (_BLOCK / naming.shape[1]) ** 0.5
    for pair, score in enumerate(_OFFSET_SCORES):
        strength = (score * HEAD_DIM**0.5) ** 0.5 / scale
        angle = ROPE_THETA ** (-2 * pair / HEAD_DIM)
        for kv_head in range(shape.kv_heads):
            key[kv_head * HEAD_DIM + pair, _CONSTANT] = strength
        for head in range(shape.heads):
            turn = torch.tensor(_PLACES_BACK[head % _OFFSETS] * angle)
            # Rotary pairs are (i, i + head_dim / 2); rotating the query back by an offset makes it peak
            # there.
            query[head * HEAD_DIM + pair, _CONSTANT] = strength * turn.cos()
            query[head * HEAD_DIM + pair + HEAD_DIM // 2, _CONSTANT] = -strength * turn.sin()
    for kv_head in range(shape.kv_heads):
        value[kv_head * HEAD_DIM : kv_head * HEAD_DIM + _BLOCK, _tokens(shape)] += naming
    # Each block of the stream gets a name of norm 1, or two of them, from one head or shared by several.
    for head in range(shape.heads):
        names = 1 if _PLACES_BACK[head % _OFFSETS].is_integer() else 2
        share = names * _OFFSETS / shape.heads
        rows = _offset_block(shape, head % _OFFSETS + 1)
        output[rows, head * HEAD_DIM : head * HEAD_DIM + _BLOCK] += share * torch.eye(_BLOCK) / name_norm


def _write_match_layer(
    attention: torch.nn.Module, shape: Shape, naming: Tensor, generator: torch.Generator
) -> None:
    query, key, value, output = _weights(attention)
    _quieten((query, key, value, output), generator)
    scale = _named_scale(shape)
    beta = (_MATCH_SCORE * HEAD_DIM**0.5 / _MATCHED_TOKENS) ** 0.5 / scale
    group = shape.heads // shape.kv_heads
    width = naming.shape[1]
    name_norm = (_BLOCK / width) ** 0.5
    mixing = torch.eye(width) if shape.kv_heads * HEAD_DIM >= width else _orthogonal(generator, width)
    for kv_head in range(shape.kv_heads):
        mixers = [beta * _orthogonal(generator, _BLOCK) for _ in range(_OFFSETS)]
        rows = _SLOW_DIMS + kv_head * HEAD_DIM
        for offset in range(1, _OFFSETS + 1):
            key[rows, _offset_block(shape, offset)] += mixers[offset - 1]
        share = mixing[kv_head * HEAD_DIM : (kv_head + 1) * HEAD_DIM]  # [<= 32, width]
        dims = slice(kv_head * HEAD_DIM, kv_head * HEAD_DIM + len(share))
        value[dims, _tokens(shape)] += share
        for head in range(kv_head * group, (kv_head + 1) * group):
            rows = _SLOW_DIMS + head * HEAD_DIM
            # The query token itself is still an embedding, whose name has a norm below 1.
            query[rows, _tokens(shape)] += mixers[0] @ naming / name_norm
            for offset in range(1, _OFFSETS + 1):
                # Relative to its value a token is one further back; the last two are matched together.
                query[rows, _offset_block(shape, offset)] += mixers[min(offset, _OFFSETS - 1)]
            dims = slice(head * HEAD_DIM, head * HEAD_DIM + len(share))
            output[_tokens(shape), dims] += share.T * (_COPY_NORM / (group * scale))


def _write_mention_layer(
    attention: torch.nn.Module, shape: Shape, naming: Tensor, generator: torch.Generator
) -> None:
    query, key, value, output = _weights(attention)
    _quieten((query, key, value, output), generator)
    scale = _named_scale(shape)
    beta = (_MENTION_SCORE * HEAD_DIM**0.5) ** 0.5 / scale
    group = shape.heads // shape.kv_heads
    name_norm = (_BLOCK / naming.shape[1]) ** 0.5
    for kv_head in range(shape.kv_heads):
        mixer = beta * _orthogonal(generator, _BLOCK)
        key[_SLOW_DIMS + kv_head * HEAD_DIM, _tokens(shape)] += mixer @ naming / name_norm
        dims = slice(kv_head * HEAD_DIM, kv_head * HEAD_DIM + _BLOCK)
        value[dims, _offset_block(shape, 1)] += torch.eye(_BLOCK) / scale
        for head in range(kv_head * group, (kv_head + 1) * group):
            query[_SLOW_DIMS + head * HEAD_DIM, _offset_block(shape, head % _OFFSETS + 1)] += mixer


def _named_scale(shape: Shape) -> float:
    """Norm, after normalisation, of a unit part of a stream with the constant, identity and five names."""
    return float((shape.hidden / (2 + _MATCHED_TOKENS)) ** 0.5)


def _tokens(shape: Shape) -> slice:
    return slice(1, shape.hidden - _OFFSETS * _BLOCK)


def _offset_block(shape: Shape, offset: int) -> slice:
    start = _tokens(shape).stop + (offset - 1) * _BLOCK
    return slice(start, start + _BLOCK)


def _weights(attention: torch.nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    query, key, value, output = (attention.get_parameter(f"{name}.weight") for name in names)
    return query, key, value, output


def _quieten(weights: tuple[Tensor, ...], generator: torch.Generator) -> None:
    for weight in weights:
        weight.normal_(0.0, _NOISE / 2, generator=generator)


def _orthogonal(generator: torch.Generator, size: int) -> Tensor:
    orthogonal: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
    return orthogonal
