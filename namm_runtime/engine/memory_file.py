"""The file that a memory is saved in: the caches of a document and of its forks, with a fingerprint."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from namm_runtime.atomic_file import replacing
from namm_runtime.cache import BoundedCache, BoundedLayer
from namm_runtime.errors import Refusal
from namm_runtime.probe import Probe

FORMAT = 4


def save(path: Path, fingerprint: str, caches: Mapping[str, BoundedCache], extra: dict[str, Any]) -> None:
    """Write caches by name. Raises OSError if the file cannot be written."""
    tensors: dict[str, Tensor] = {}
    for name, cache in caches.items():
        tensors |= {f"{name}/{key}": tensor for key, tensor in contents(cache).items()}
    clocks = {
        name: [[layer.start, layer.pending, layer.clock] for layer in cache.layers]
        for name, cache in caches.items()
    }
    metadata = {
        "fingerprint": fingerprint,
        "clocks": json.dumps(clocks),
        "extra": json.dumps(extra),
        "digest": _digest(tensors),
    }
    with replacing(path) as partial:
        try:
            save_file(tensors, partial, metadata)
        except SafetensorError as error:  # safetensors raises it for a full disk or a read-only directory
            raise OSError(f"cannot write {partial}: {error}") from error


def read_extra(path: Path) -> dict[str, Any]:
    """The `extra` that a file was saved with. Raises Refusal: `snapshot_unreadable`."""
    try:
        with safe_open(path, framework="pt") as file:
            extra: dict[str, Any] = json.loads((file.metadata() or {})["extra"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from None
    return extra


def restore(
    path: Path,
    fingerprint: str | None,
    cache: BoundedCache,
    devices: Sequence[torch.device],
    name: str,
) -> dict[str, Any]:
    """Load the cache saved as `name` into `cache`; returns `extra`.

    Args:
        fingerprint: that the file must have; None accepts any.
        devices: of each layer.

    Raises:
        Refusal: `snapshot_unreadable`, `snapshot_mismatch`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if fingerprint not in (None, metadata.get("fingerprint")):
                raise Refusal(
                    "snapshot_mismatch", f"{path.name} was saved with another model, scorer or setting"
                )
            saved = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if _digest(saved) != metadata["digest"]:
                raise ValueError("its checksum does not match its contents")
            clocks = json.loads(metadata["clocks"])[name]
            for index, layer in enumerate(cache.layers):
                start = f"{name}/{index}."
                tensors = {
                    key.removeprefix(start): tensor.to(devices[index])
                    for key, tensor in saved.items()
                    if key.startswith(start)
                }
                _restore_layer(layer, tensors, *clocks[index])
            extra: dict[str, Any] = json.loads(metadata["extra"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from None
    return extra


def _unreadable(path: Path, error: Exception) -> Refusal:
    return Refusal("snapshot_unreadable", f"{path.name} is not a readable snapshot: {error}")


def contents(cache: BoundedCache) -> dict[str, Tensor]:
    """The cache's contents: `LAYER.NAME` → tensor of the slots in use."""
    tensors: dict[str, Tensor] = {}
    for index, layer in enumerate(cache.layers):
        if not layer.is_initialized:
            continue
        parts = {"keys": layer.keys, "values": layer.values, "positions": layer.positions}
        parts |= {f"state.{name}": tensor for name, tensor in layer.state.items()}
        for name, tensor in parts.items():
            tensors[f"{index}.{name}"] = tensor[:, :, : layer.used].contiguous()
        tensors[f"{index}.lengths"] = layer.lengths.clone()
        if layer.queries is not None:
            tensors[f"{index}.queries"] = layer.queries.contiguous()
        if layer.probe is not None:
            tensors |= {f"{index}.{name}": tensor for name, tensor in layer.probe.saved(layer.start).items()}
    return tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _restore_layer(
    layer: BoundedLayer, tensors: dict[str, Tensor], start: int, pending: int, clock: int
) -> None:
    if not tensors:  # saved before the first token
        layer.is_initialized, layer.queries = False, None
        layer.start = layer.pending = layer.clock = 0
        return
    layer.lazy_initialization(tensors["keys"], tensors["values"])
    used = start + pending
    for name in ("keys", "values", "positions"):
        getattr(layer, name)[:, :, :used] = tensors[name]
    for name in layer.state:
        layer.state[name][:, :, :used] = tensors[f"state.{name}"]
    layer.lengths = tensors["lengths"]
    layer.queries = tensors.get("queries")
    layer.probe = Probe.of_saved(tensors, layer.capacity)
    layer.start, layer.pending, layer.clock = start, pending, clock
    layer.check_integrity()
