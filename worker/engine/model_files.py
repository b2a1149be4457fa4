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


def describe(config: Settings) -> ModelCard:
    """Describes the model by its config.json. Of a hub id only the name is known until it is loaded.

    Raises OSError or ValueError when a directory holds no readable config.json.
    """
    from namm_runtime.bundled import MODELS

    folder = MODELS.get(config.model, Path(config.model))
    if not folder.is_dir():
        return ModelCard(config.served_model)
    text = (folder / "config.json").read_bytes()
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
    folder = Path(config.model)
    if not folder.is_dir():
        return _downloaded(config.model)
    try:
        found = [(file.name, file.stat()) for file in _model_files(folder)]
    except OSError:
        return ()  # the files are being replaced right now
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def files_age(config: Settings) -> float:
    """Seconds since a file of the model was last written; infinite for downloads, which appear atomically."""
    folder = Path(config.model)
    if not folder.is_dir():
        return math.inf
    try:
        return time.time() - max(file.stat().st_mtime for file in _model_files(folder))
    except OSError:
        return 0.0


def _model_files(folder: Path) -> list[Path]:
    return [folder / "config.json", *sorted(folder.glob("*.safetensors"))]


def _downloaded(hub_id: str) -> tuple[Any, ...]:
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(hub_id, "config.json")
        return (found,) if isinstance(found, str) else ()  # not downloaded yet
    except (ImportError, ValueError):
        return ()  # no hub library, or not a valid hub id
