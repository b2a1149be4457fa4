"""Which checkpoints are supported, and what is said about one that cannot be loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from namm_runtime.attention.rope import check_type
from namm_runtime.errors import Refusal

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")


def check_config(config: Any, shards: int = 1) -> None:
    """Refuse architectures whose attention is not plain softmax over all earlier tokens.

    Raises:
        Refusal: `model_unsupported`, `rope_unsupported`, `shards_do_not_fit`.
    """
    if config.model_type not in SUPPORTED:
        known = ", ".join(SUPPORTED)
        raise Refusal(
            "model_unsupported", f"unsupported model type '{config.model_type}'; supported: {known}"
        )
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    mistral_window = config.model_type == "mistral" and config.sliding_window is not None
    if layers != {"full_attention"} or mistral_window:
        raise Refusal("model_unsupported", "models with sliding-window attention are not supported")
    check_type((getattr(config, "rope_parameters", None) or {}).get("rope_type", "default"))
    if config.num_key_value_heads % shards or config.num_attention_heads % shards:
        raise Refusal(
            "shards_do_not_fit",
            f"{config.num_attention_heads} heads and {config.num_key_value_heads} KV heads cannot be divided "
            f"evenly by {shards} processes",
        )


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer without offsets.

    Raises:
        Refusal: `tokenizer_unsupported`.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise Refusal("tokenizer_unsupported", "the model's tokenizer has no fast version with offsets")


def quantization_of(config: Any) -> str | None:
    """Name of the method a checkpoint is quantized with, if it is."""
    described = getattr(config, "quantization_config", None)
    if described is None:
        return None
    method = described.get("quant_method") if isinstance(described, dict) else described.quant_method
    return str(getattr(method, "value", method))


@contextmanager
def explained(asked: str) -> Iterator[None]:
    """Whatever goes wrong while a checkpoint is loaded becomes a Refusal of one sentence.

    Checkpoints come from anywhere, and the libraries that read them raise anything.
    """
    try:
        yield
    except (Refusal, MemoryError, torch.OutOfMemoryError):
        raise
    except ImportError as error:
        raise Refusal(
            "extra_missing", f"'{asked}' needs a package that is missing: {sentence(error)}"
        ) from error
    except Exception as error:
        raise Refusal("model_not_found", f"cannot load a model from '{asked}': {sentence(error)}") from error


def sentence(error: Exception) -> str:
    """The first line of an error's message, with its type where the message alone says nothing."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".") if lines else ""
    if isinstance(error, KeyError):
        return f"{text} is missing"
    return text if " " in text else f"{type(error).__name__} {text}".strip()
