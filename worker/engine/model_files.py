"""Describes a model from its files without loading it, and detects that they have been replaced."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

from store.settings import Settings
from store.workers import ModelCard


def source_of(config: Settings) -> str:
    """What `load_model` is to load: the directory of a known model, otherwise the setting as it is.

    Raises Refusal for a known model that has not been fetched into the service's directory of models.
    """
    from namm_runtime.errors import Refusal
    from namm_runtime.model.catalogue import KNOWN, directory_of, is_fetched

    known = KNOWN.get(config.model)
    if known is None or known.is_bundled:
        return config.model
    if not is_fetched(known.name, config.models):
        elsewhere = config.models_dir is None and config.data_dir != Settings.model_fields["data_dir"].default
        command = f"palimpsest model add {known.name}" + f" --data {config.data_dir}" * elsewhere
        raise Refusal("model_not_found", f"'{known.name}' has not been fetched yet; run: {command}")
    return str(directory_of(known.name, config.models))


def describe(config: Settings) -> ModelCard:
    """Describes the model by its config.json. Of a hub id or a GGUF file only the name is known until it is
    loaded.

    Raises OSError or ValueError when a directory holds no readable config.json.
    """
    place = _place(config)
    if not place.is_dir():
        return ModelCard(config.served_model)
    text = (place / "config.json").read_bytes()
    values = json.loads(text)
    return ModelCard(
        config.served_model,
        revision="files-" + hashlib.sha256(text).hexdigest()[:12],  # until the weights are loaded
        window=values.get("max_position_embeddings"),
        vocab_size=values.get("vocab_size"),
    )


def files_of(config: Settings) -> tuple[Any, ...]:
    """A fingerprint that changes when a model is replaced: names, sizes and times of its files; for a hub id,
    the path of its newest download. Empty for bundled models, which are never replaced, and if files are
    missing.
    """
    from namm_runtime.bundled import MODELS

    if config.model in MODELS:
        return ()
    place = _place(config)
    if not place.exists():
        return _downloaded(config.model)
    try:
        found = [(file.name, file.stat()) for file in _model_files(place)]
    except OSError:
        return ()  # the files are being replaced right now
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def files_age(config: Settings) -> float:
    """Seconds since a file of the model was last written; infinite for downloads, which appear atomically."""
    place = _place(config)
    if not place.exists():
        return math.inf
    try:
        return time.time() - max(file.stat().st_mtime for file in _model_files(place))
    except OSError:
        return 0.0


def _place(config: Settings) -> Path:
    """The model's directory or GGUF file, if it has one; it need not exist."""
    from namm_runtime.model.catalogue import KNOWN, directory_of

    return directory_of(config.model, config.models) if config.model in KNOWN else Path(config.model)


def _model_files(place: Path) -> list[Path]:
    return [place] if place.is_file() else [place / "config.json", *sorted(place.glob("*.safetensors"))]


def _downloaded(hub_id: str) -> tuple[Any, ...]:
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(hub_id, "config.json")
        return (found,) if isinstance(found, str) else ()  # not downloaded yet
    except (ImportError, ValueError):
        return ()  # no hub library, or not a valid hub id
