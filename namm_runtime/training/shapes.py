"""Shapes of the bundled models."""

from dataclasses import dataclass

from transformers import LlamaConfig

WINDOW = 16_384
ROPE_THETA = 1e7
HEAD_DIM = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """The part of the configuration in which the bundled models differ."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int


SHAPES = {
    "main": Shape(layers=5, hidden=128, heads=4, kv_heads=2, feed_forward=256),
    # For the transfer of scorers: deeper, narrower, eight query heads over a single KV head.
    "deep": Shape(layers=6, hidden=112, heads=8, kv_heads=1, feed_forward=192),
}


def bundled_config(shape: Shape, vocab_size: int, bos: int, eos: int) -> LlamaConfig:
    """The configuration of a shape; `main` has about a million parameters with a vocabulary of 2,048."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        dtype="float32",
    )
