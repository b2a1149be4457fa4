"""Check a checkpoint's files before they are loaded, and its weights afterwards."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from namm_runtime.errors import Refusal
from namm_runtime.model import gguf_metadata
from namm_runtime.model.source import ModelSource

POINTER = b"version https://git-lfs"
LONGEST_HEADER = 100_000_000  # bytes, as in safetensors


def check_files(source: ModelSource) -> None:
    """Refuse weights files that are not whole.

    Raises:
        Refusal: `model_not_found`; for GGUF files also `model_unsupported` and `rope_unsupported`.
    """
    if source.gguf is not None:
        _check_gguf(source.gguf)
        return
    for file in source.weights():
        try:
            fault = _fault_of(file)
        except OSError as error:
            fault = f"cannot be read: {error.strerror}"
        if fault:
            raise Refusal("model_not_found", f"{file} {fault}")


def check_weights(asked: str, found: dict[str, Any], quantized: str | None) -> None:
    """Refuse a model some of whose weights would be random.

    Args:
        found: transformers' loading info.
        quantized: name of the checkpoint's quantization, if it has one.

    Raises:
        Refusal: `model_not_found`, or `model_unsupported` if that is because the checkpoint is quantized.
    """
    if found["mismatched_keys"]:
        name, stored, wanted = min(found["mismatched_keys"])
        shapes = f"{list(stored)} in the checkpoint, {list(wanted)} by config.json"
        raise Refusal("model_not_found", f"'{asked}': the weights {name} have another shape: {shapes}")
    if quantized and (found["missing_keys"] or found["unexpected_keys"]):
        # transformers skips methods it does not know, and would take packed numbers for weights.
        reason = f"is quantized with {quantized}, which is not supported"
        raise Refusal("model_unsupported", f"'{asked}' {reason}")
    if found["missing_keys"]:
        raise Refusal(
            "model_not_found", f"the checkpoint '{asked}' lacks weights: {_listed(found['missing_keys'])}"
        )
    if found["error_msgs"]:
        raise Refusal("model_not_found", f"'{asked}' cannot be loaded: {found['error_msgs'][0]}")


def check_finite(asked: str, model: Any) -> None:
    """Refuse weights that are not finite numbers; one pass over them.

    Raises:
        Refusal: `model_unsupported`.
    """
    for name, parameter in model.named_parameters():
        weights = parameter.to_local() if hasattr(parameter, "to_local") else parameter  # this shard's
        # NaN and infinity get through a quick sum; only if it is not finite is every number looked at.
        if weights.is_meta or weights.sum(dtype=torch.float32).isfinite() or weights.isfinite().all():
            continue
        dtype = str(weights.dtype).removeprefix("torch.")
        raise Refusal(
            "model_unsupported", f"'{asked}': the weights {name} are not all finite numbers in {dtype}"
        )


def _fault_of(file: Path) -> str | None:
    """What is wrong with a safetensors file, by its size and header."""
    with file.open("rb") as data:
        start = data.read(64)
        if start.startswith(POINTER):
            return "is a Git LFS pointer instead of the weights; run 'git lfs pull'"
        size = file.stat().st_size
        header = int.from_bytes(start[:8], "little")
        if size < 8 or header > min(size - 8, LONGEST_HEADER):
            return f"is incomplete or damaged: it has {size:,} bytes"
        data.seek(8)
        try:
            entries = json.loads(data.read(header))
            ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
            end = 8 + header + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "is damaged: its header cannot be read"
    return None if size == end else f"is incomplete or damaged: it has {size:,} of {end:,} bytes"


def _check_gguf(file: Path) -> None:
    metadata = gguf_metadata.read(file)
    if metadata.split > 1:
        raise Refusal("model_unsupported", f"{file} is one of {metadata.split} files; join them to one first")
    if metadata.rope_scaling is not None:
        raise Refusal(
            "rope_unsupported",
            f"{file} has rotary frequencies with '{metadata.rope_scaling}' scaling, which are not read from "
            "GGUF files; use the model's safetensors checkpoint",
        )


def _listed(names: Collection[str], most: int = 3) -> str:
    shown = ", ".join(sorted(names)[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
