"""Load a Hugging Face decoder with rotary positions, and run its attention over the bounded cache."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import namm_runtime.attention.bounded  # noqa: F401  registers "bounded"
from namm_runtime.attention.rope import Rotation
from namm_runtime.errors import Refusal
from namm_runtime.model import placement
from namm_runtime.model.checkpoint_files import check_files, check_finite, check_weights
from namm_runtime.model.dtype_choice import choose_dtype
from namm_runtime.model.encoding import encode
from namm_runtime.model.gguf_model import gguf_options, unpack
from namm_runtime.model.prompts import Frame, frame_for
from namm_runtime.model.source import ModelSource, locate
from namm_runtime.model.support import check_config, check_tokenizer, explained, quantization_of, sentence


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
    def dtype(self) -> str:
        """The dtype of weights and cache, as `load_model` takes it."""
        return str(self.model.dtype).removeprefix("torch.")

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
    device_map: placement.DeviceMap = None,
    tensor_parallel: bool = False,
) -> LoadedModel:
    """Load a known model by its name, a directory, a GGUF file or a hub id.

    Args:
        path_or_id: known names are those of `namm model list`; `bundled` is always there.
        device: one device for the whole model; `auto` is short for `device_map="auto"`.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`, see `choose_dtype`.
        device_map: for a model too large for one device, as in accelerate: `auto`, or a device per module.
            The devices then compute one after the other.
        tensor_parallel: divide every layer's heads among the processes that torchrun started. Each loads its
            shard, reads the same tokens and evicts for its own heads.

    Raises:
        Refusal: `model_not_found` if there is no such model or its files are incomplete or damaged,
            `model_unsupported`, `rope_unsupported`, `tokenizer_unsupported`; `extra_missing` without a
            package that it needs; `model_too_large` for the device's memory; `bad_request` for an unknown
            dtype or device, and for tensor parallelism without torchrun or together with device_map;
            `shards_do_not_fit` if the heads cannot be divided evenly.
    """
    source = locate(path_or_id)
    if device == "auto" and device_map is None:
        device_map = "auto"
    placed = placement.options(device_map, tensor_parallel)
    shard = placement.shard() if tensor_parallel else (0, 1)
    if not placed:
        placement.check_device(device)
    try:
        with explained(source.asked), _without_load_report():
            check_files(source)
            config = AutoConfig.from_pretrained(source.place, **source.options)
            check_config(config, shard[1])
            tokenizer = _whole(AutoTokenizer.from_pretrained(source.place, **source.options))
            check_tokenizer(tokenizer)
            frame_for(tokenizer)  # an unusable chat template is refused now, not in the first job
            on_cpu = placement.computes_on_cpu(device, device_map, tensor_parallel)
            dtype = choose_dtype(dtype, config, on_cpu, packed=source.gguf is not None)
            model = _model(source, config, {"dtype": dtype, "attn_implementation": "bounded", **placed})
            if not placed:
                model = model.to(device)
    except (MemoryError, torch.OutOfMemoryError):
        raise Refusal(
            "model_too_large", f"'{source.asked}' does not fit into the memory of {device}"
        ) from None
    return LoadedModel(
        name=source.name,
        revision=_revision(source, model),
        model=model.eval(),
        tokenizer=tokenizer,
        rotation=Rotation.of(model),
        window=int(model.config.max_position_embeddings),
        shard=shard,
    )


def _model(source: ModelSource, config: Any, options: dict[str, Any]) -> Any:
    """The model with its own weights, all of them and finite."""
    quantized = quantization_of(config)
    if source.gguf is not None:
        options = {**options, **gguf_options(source.gguf)}
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            source.place, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except (ImportError, ValueError, RuntimeError, NotImplementedError) as error:
        if quantized is None or source.gguf is not None:
            raise
        reason = sentence(error)
        raise Refusal(
            "model_unsupported",
            f"'{source.asked}' is quantized with {quantized}, which cannot be used: {reason}",
        ) from error
    check_weights(source.asked, found, None if source.gguf else quantized)
    check_finite(source.asked, model)
    if source.gguf is not None:
        unpack(model)
    return model


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Without transformers' table of weights, whose faults are refused in one sentence."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _whole(tokenizer: Any) -> Any:
    """Disable the truncation or padding that its file may configure, as transformers does on first use.

    This way its hash, which snapshots contain, is the same before and after the first use.
    """
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _revision(source: ModelSource, model: Any) -> str:
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return str(commit)[:12]
    # The path of the files and the version of the library do not change the model.
    ignored = ("_name_or_path", "transformers_version")
    config = {name: value for name, value in model.config.to_dict().items() if name not in ignored}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for file in source.weights():
        with file.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    return digest.hexdigest()[:12]
