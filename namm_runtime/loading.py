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


@dataclass(frozen=True)
class LoadedModel:
    """A model with what the engine needs to know of it.

    Attributes:
        window: positions it was trained for.
        revision: commit or directory hash of the weights' index, to tell two models of one name apart.
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
    def dense_bytes_per_token(self) -> int:
        """Bytes of K and V that a full cache takes for one token, all layers."""
        config = self.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        element = torch.empty((), dtype=self.model.dtype).element_size()
        return int(self.layers * 2 * config.num_key_value_heads * width * element)

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
    if not hasattr(model.get_decoder(), "rotary_emb"):
        raise Refusal(
            "model_unsupported", f"'{path_or_id}' has no rotary positions; use a Llama-family decoder"
        )
    model = model.to(device).eval()
    return LoadedModel(
        name=str(path_or_id).rstrip("/").rsplit("/", 1)[-1],
        revision=_revision(source, model),
        model=model,
        tokenizer=tokenizer,
        rotation=Rotation.of(model),
        window=int(model.config.max_position_embeddings),
    )


def _revision(source: str | Path, model: Any) -> str:
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return str(commit)[:12]
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    for file in sorted(Path(source).glob("*.safetensors")):
        with file.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    return digest.hexdigest()[:12]
