"""Load a Hugging Face decoder with rotary positions, and run its attention over the bounded cache."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import namm_runtime.attention.bounded  # noqa: F401  registers "bounded"
from namm_runtime.attention.rope import Rotation
from namm_runtime.bundled import MODELS
from namm_runtime.errors import Refusal
from namm_runtime.model.encoding import encode
from namm_runtime.model.prompts import Frame, frame_for

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class LoadedModel:
    """A model with what the engine needs to know about it.

    Attributes:
        window: number of positions it was trained for.
        revision: hub commit, or a hash of config and weights, to distinguish models of the same name.
        shard: index of this process's shard of the heads and the number of shards (tensor parallelism).
    """

    name: str
    revision: str
    model: Any
    tokenizer: Any
    rotation: Rotation
    window: int
    shard: tuple[int, int] = (0, 1)

    def encode(self, text: str, opening: bool = True) -> Tensor:
        """Tokens [1, T] of a document's text; control tokens spelt in it are treated as text.

        Args:
            opening: prepend the tokens that precede a document; only for its first piece.
        """
        ids = encode(self.tokenizer, text)["input_ids"]
        before = list(self.frame.prefix) if opening else []
        return torch.tensor([before + ids], dtype=torch.int64, device=self.device)

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
        """The device for input tokens."""
        return self.layer_device(0)

    def layer_device(self, index: int) -> torch.device:
        """The device on which a layer computes and keeps its cache, for models with a device map."""
        placed = getattr(self.model, "hf_device_map", None)
        if placed is None:
            return torch.device(self.model.device)
        name = f"model.layers.{index}.self_attn.k_proj"
        inside = [key for key in placed if not key or name == key or name.startswith(f"{key}.")]
        device = placed[max(inside, key=len)]
        # Weights offloaded to memory or disk are moved to the first accelerator, if any, to compute.
        accelerators = (where for where in placed.values() if str(where) not in ("cpu", "disk"))
        return torch.device(next(accelerators, "cpu") if str(device) in ("cpu", "disk") else device)

    @property
    def head_width(self) -> int:
        """Head dimension."""
        config = self.config
        return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

    @property
    def head_group(self) -> int:
        """Query heads per KV head."""
        return int(self.config.num_attention_heads // self.config.num_key_value_heads)

    @property
    def dense_bytes_per_token(self) -> int:
        """Bytes of K and V per token in a full cache: all layers, this shard's heads."""
        element = torch.empty((), dtype=self.model.dtype).element_size()
        heads = self.config.num_key_value_heads // self.shard[1]
        return int(self.layers * 2 * heads * self.head_width * element)

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
    path_or_id: str | Path = "bundled",
    *,
    device: str = "cpu",
    dtype: str = "auto",
    device_map: str | dict[str, str | int] | None = None,
    tensor_parallel: bool = False,
) -> LoadedModel:
    """Load a directory, a hub id, or a bundled demonstration model (`bundled`, `bundled-deep`).

    Args:
        device: one device for the whole model; `auto` is short for `device_map="auto"`.
        dtype: `auto` uses the checkpoint's dtype on an accelerator, and fp32 on a CPU, where bf16 is slower.
        device_map: for a model too large for one device, as in accelerate: `auto`, or a device per module.
            The devices then compute one after the other.
        tensor_parallel: divide every layer's heads among the processes that torchrun started. Each loads its
            shard, reads the same tokens and evicts for its own heads.

    Raises:
        Refusal: `model_not_found`, `model_unsupported`, `rope_unsupported`; `extra_missing` without
            accelerate; `bad_request` for tensor parallelism without torchrun or together with device_map;
            `shards_do_not_fit` if the heads cannot be divided evenly.
    """
    source = MODELS.get(str(path_or_id), path_or_id)
    if device == "auto" and device_map is None:
        device_map = "auto"
    if dtype == "auto" and _computes_on_cpu(device, device_map, tensor_parallel):
        dtype = "float32"
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "bounded"}
    options |= _placement(device_map, tensor_parallel)
    shard = _shard() if tensor_parallel else (0, 1)
    try:
        tokenizer = _whole(AutoTokenizer.from_pretrained(source))
        config = AutoConfig.from_pretrained(source)
        _check_supported(config, shard[1])
        model = AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise Refusal("model_not_found", f"cannot load a model from '{path_or_id}': {error}") from None
    if device_map is None and not tensor_parallel:
        model = model.to(device)
    model = model.eval()
    return LoadedModel(
        name=str(path_or_id).rstrip("/").rsplit("/", 1)[-1],
        revision=_revision(source, model),
        model=model,
        tokenizer=tokenizer,
        rotation=Rotation.of(model),
        window=int(model.config.max_position_embeddings),
        shard=shard,
    )


def _whole(tokenizer: Any) -> Any:
    """Disable the truncation or padding that its file may configure, as transformers does on first use.

    This way its hash, which snapshots contain, is the same before and after the first use.
    """
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _computes_on_cpu(
    device: str, device_map: str | dict[str, str | int] | None, tensor_parallel: bool
) -> bool:
    if not torch.accelerator.is_available():
        return True
    if isinstance(device_map, dict):
        return {str(where) for where in device_map.values()} <= {"cpu", "disk"}
    return device_map == "cpu" or (device_map is None and not tensor_parallel and device == "cpu")


def _placement(device_map: str | dict[str, str | int] | None, tensor_parallel: bool) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a model on several devices."""
    if device_map is not None and tensor_parallel:
        raise Refusal("bad_request", "device_map and tensor parallelism cannot be combined")
    if tensor_parallel:
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    if device_map is None:
        return {}
    if util.find_spec("accelerate") is None:
        raise Refusal("extra_missing", "device_map needs accelerate: pip install 'palimpsest[large]'")
    return {"device_map": device_map}


def _shard() -> tuple[int, int]:
    """This process's rank and the world size, as set by torchrun."""
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        raise Refusal(
            "bad_request",
            "tensor parallelism needs one process per device: torchrun --nproc-per-node N -m …",
        ) from None


def _check_supported(config: Any, shards: int) -> None:
    """Refuse architectures whose attention is not plain softmax over all earlier tokens."""
    if config.model_type not in SUPPORTED:
        known = ", ".join(SUPPORTED)
        raise Refusal(
            "model_unsupported", f"unsupported model type '{config.model_type}'; supported: {known}"
        )
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    mistral_window = config.model_type == "mistral" and config.sliding_window is not None
    if layers != {"full_attention"} or mistral_window:
        raise Refusal("model_unsupported", "models with sliding-window attention are not supported")
    if config.num_key_value_heads % shards or config.num_attention_heads % shards:
        raise Refusal(
            "shards_do_not_fit",
            f"{config.num_attention_heads} heads and {config.num_key_value_heads} KV heads cannot be divided "
            f"evenly by {shards} processes",
        )


def _revision(source: str | Path, model: Any) -> str:
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return str(commit)[:12]
    # The path of the files and the version of the library do not change the model.
    ignored = ("_name_or_path", "transformers_version")
    config = {name: value for name, value in model.config.to_dict().items() if name not in ignored}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for file in sorted(Path(source).glob("*.safetensors")):
        with file.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    return digest.hexdigest()[:12]
