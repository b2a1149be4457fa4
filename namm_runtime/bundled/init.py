"""A structured start: layers 0 and 1 begin as an induction circuit instead of noise.

Learning to match a question with an earlier statement from random weights costs a small model most of its
budget, so the circuit is written down and training refines it:

- one embedding coordinate is the same for all tokens, so that rotary angles alone decide what layer 0 sees:
  head h looks at the token h + 1 places back and writes its name, 16 numbers, into a block of the stream;
- layer 1 compares the query token and its 3 predecessors with a key token's 4 predecessors, in rotary pairs
  too slow to feel a distance of 2,048 tokens, and copies the key token's embedding to the output.
"""

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 128, 4, 2, 32
WINDOW = 2048
ROPE_THETA = 1e6

# Coordinates of the residual stream: 0 is constant, then token identity, then one block for each offset.
_CONSTANT = 0
_TOKEN = slice(1, 64)
_BLOCK = 16
_SLOW_PAIRS = range(8, 16)

# Scores are in nats. The fastest pair tells neighbours apart (10 nats between them), the slower ones tell a
# place from the same place some turns away. The sum stays small, since a key's norm scales all of it.
_OFFSET_SCORES = (20.0, 12.0, 6.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0)
_MATCH_SCORE = 12.0
_COPY_NORM = 4.0
_NOISE = 0.02


def bundled_config(vocab_size: int, bos: int, eos: int) -> LlamaConfig:
    """The bundled model's shape, about 0.85 million parameters at a vocabulary of 2,048."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        dtype="float32",
    )


@torch.no_grad()
def initialise(model: LlamaForCausalLM, seed: int) -> None:
    """Overwrite every weight of a model made with `bundled_config`, deterministically for a seed."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
            weight.normal_(0.0, _NOISE if into_stream else 3 * _NOISE, generator=generator)
        else:
            weight.fill_(1.0)
    embedding = model.model.embed_tokens.weight  # [vocab, hidden]
    width = _TOKEN.stop - _TOKEN.start
    embedding.zero_()
    embedding[:, _CONSTANT] = 1.0
    embedding[:, _TOKEN] = torch.nn.functional.normalize(_normal(generator, embedding.shape[0], width))
    # The constant would only shift all logits alike.
    model.model.norm.weight[_CONSTANT] = 0.0

    naming = _orthogonal(generator, width)[:_BLOCK]  # [16, 63]: a token's name, half of its embedding's norm
    _write_offset_layer(model.model.layers[0].self_attn, naming, generator)
    _write_match_layer(model.model.layers[1].self_attn, naming, generator)


def _write_offset_layer(attention: torch.nn.Module, naming: Tensor, generator: torch.Generator) -> None:
    query, key, value, output = _weights(attention)
    _quieten((query, key, value, output), generator)
    # Normalised, an embedding of a unit constant and a unit identity has both at sqrt(hidden / 2) = 8.
    scale = (HIDDEN / 2) ** 0.5
    for pair, score in enumerate(_OFFSET_SCORES):
        strength = (score * HEAD_DIM**0.5) ** 0.5 / scale
        angle = ROPE_THETA ** (-2 * pair / HEAD_DIM)
        for kv_head in range(KV_HEADS):
            key[kv_head * HEAD_DIM + pair, _CONSTANT] = strength
        for head in range(HEADS):
            turn = torch.tensor((head + 1) * angle)
            # Rotary pairs are (i, i + head_dim / 2); turning the query back by an offset makes it peak there.
            query[head * HEAD_DIM + pair, _CONSTANT] = strength * turn.cos()
            query[head * HEAD_DIM + pair + HEAD_DIM // 2, _CONSTANT] = -strength * turn.sin()
    for kv_head in range(KV_HEADS):
        value[kv_head * HEAD_DIM : kv_head * HEAD_DIM + _BLOCK, _TOKEN] += naming
    # A name leaves the value projection with norm 4; each block of the stream gets norm 1.
    for head in range(HEADS):
        block = output[_offset_block(head + 1), head * HEAD_DIM : head * HEAD_DIM + _BLOCK]
        block += torch.eye(_BLOCK) / (scale / 2)


def _write_match_layer(attention: torch.nn.Module, naming: Tensor, generator: torch.Generator) -> None:
    query, key, value, output = _weights(attention)
    _quieten((query, key, value, output), generator)
    # The stream now holds constant, identity and four names of norm 1 each: total squared norm 6.
    scale = (HIDDEN / 6) ** 0.5
    beta = (_MATCH_SCORE * HEAD_DIM**0.5 / HEADS) ** 0.5 / scale
    slow = [*_SLOW_PAIRS, *(pair + HEAD_DIM // 2 for pair in _SLOW_PAIRS)]  # 16 dims of a head
    group = HEADS // KV_HEADS
    for kv_head in range(KV_HEADS):
        mixers = [beta * _orthogonal(generator, _BLOCK) for _ in range(HEADS)]
        rows = torch.tensor(slow) + kv_head * HEAD_DIM
        for offset in range(1, HEADS + 1):
            key[rows, _offset_block(offset)] += mixers[offset - 1]
        for head in range(kv_head * group, (kv_head + 1) * group):
            rows = torch.tensor(slow) + head * HEAD_DIM
            # The query token itself is still an embedding: naming gives it norm 1/2, hence the 2.
            query[rows, _TOKEN] += 2 * mixers[0] @ naming
            for offset in range(1, HEADS):
                query[rows, _offset_block(offset)] += mixers[offset]
        share = range(_TOKEN.start, _TOKEN.stop)[kv_head * HEAD_DIM : (kv_head + 1) * HEAD_DIM]
        for dim, coordinate in enumerate(share):
            value[kv_head * HEAD_DIM + dim, coordinate] += 1.0
            for head in range(kv_head * group, (kv_head + 1) * group):
                output[coordinate, head * HEAD_DIM + dim] += _COPY_NORM / (group * scale)


def _offset_block(offset: int) -> slice:
    start = _TOKEN.stop + (offset - 1) * _BLOCK
    return slice(start, start + _BLOCK)


def _weights(attention: torch.nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    query, key, value, output = (attention.get_parameter(f"{name}.weight") for name in names)
    return query, key, value, output


def _quieten(weights: tuple[Tensor, ...], generator: torch.Generator) -> None:
    for weight in weights:
        weight.normal_(0.0, _NOISE / 2, generator=generator)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def _orthogonal(generator: torch.Generator, size: int) -> Tensor:
    orthogonal: Tensor = torch.linalg.qr(_normal(generator, size, size)).Q
    return orthogonal
