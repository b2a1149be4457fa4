"""Load any Hugging Face decoder with rotary positions and point its attention at the bounded cache."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import namm_runtime.attention  # noqa: F401  registers "bounded"
from namm_runtime.bundled import MODEL_DIR
from namm_runtime.errors import Refusal
from namm_runtime.prompts import Frame, frame_for
from namm_runtime.rope import Rotation

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class LoadedModel:
    """A model with what the engine needs to know of it.

    Attributes:
        window: positions it was trained for.
        revision: hub commit, or a hash of config and weights, to tell two models of one name apart.
    """

    name: str
    revision: str
    model: Any
    tokenizer: Any
    rotation: Rotation
    window: int

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def vocab_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def head_width(self) -> int:
        """Floats of one head."""
        config = self.config
        return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

    @property
    def head_group(self) -> int:
        """Query heads that share a KV head."""
        return int(self.config.num_attention_heads // self.config.num_key_value_heads)

    @property
    def dense_bytes_per_token(self) -> int:
        """Bytes of K and V that a full cache takes for one token, all layers."""
        element = torch.empty((), dtype=self.model.dtype).element_size()
        return int(self.layers * 2 * self.config.num_key_value_heads * self.head_width * element)

    @cached_property
    def frame(self) -> Frame:
        return frame_for(self.tokenizer)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        stop = self.model.generation_config.eos_token_id
        if stop is None:
            stop = self.tokenizer.eos_token_id
        return frozenset([stop] if isinstance(stop, int) else stop or [])

    @cached_property
    def tokenizer_sha256(self) -> str:
        return hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def load_model(
    path_or_id: str | Path = "bundled", *, device: str = "cpu", dtype: str = "auto"
) -> LoadedModel:
    """Load a directory, a hub id, or the bundled demonstration model (`bundled`).

    Args:
        dtype: `auto` takes the checkpoint's own on an accelerator and fp32 on a CPU, where bf16 is slower.

    Raises:
        Refusal: `model_not_found`, `model_unsupported`, `rope_unsupported`.
    """
    source = MODEL_DIR if str(path_or_id) == "bundled" else path_or_id
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="bounded")
    except (OSError, ValueError) as error:
        raise Refusal("model_not_found", f"cannot load a model from '{path_or_id}': {error}") from None
    _check_supported(model.config)
    model = model.to(device).eval()
    return LoadedModel(
        name=str(path_or_id).rstrip("/").rsplit("/", 1)[-1],
        revision=_revision(source, model),
        model=model,
        tokenizer=tokenizer,
        rotation=Rotation.of(model),
        window=int(model.config.max_position_embeddings),
    )


def _check_supported(config: Any) -> None:
    """Refuse architectures whose attention is more than softmax over every earlier token."""
    if config.model_type not in SUPPORTED:
        known = ", ".join(SUPPORTED)
        raise Refusal(
            "model_unsupported", f"models of type '{config.model_type}' are not supported; {known} are"
        )
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    mistral_window = config.model_type == "mistral" and config.sliding_window is not None
    if layers != {"full_attention"} or mistral_window:
        raise Refusal("model_unsupported", "models with sliding-window attention are not supported")


def _revision(source: str | Path, model: Any) -> str:
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return str(commit)[:12]
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    for file in sorted(Path(source).glob("*.safetensors")):
        with file.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    return digest.hexdigest()[:12]
