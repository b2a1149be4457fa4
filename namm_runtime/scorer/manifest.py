"""Validation of a scorer's manifest: known entries, correct types, meaningful values."""

import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from namm_runtime.attention.spectrogram import FRAME, HOP
from namm_runtime.errors import Refusal
from namm_runtime.scorer.regime import MODES, POSITIONS

MANIFEST_FILE, TENSORS_FILE = "manifest.json", "scorer.safetensors"
FORMAT = 1
REQUIRED = {"name": str, "version": str, "sha256": str, "config": dict, "regime": dict}
OPTIONAL = {"serving": dict, "provenance": dict}
WORDS = {
    NoneType: "null",
    bool: "true or false",
    dict: "an object",
    float: "a finite number",
    int: "an integer",
    str: "a string",
}

# By the entry's name, in any section. None passes if the entry's type allows it.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "gamma": (lambda x: 0 < x < 1, "between 0 and 1"),
    "width": (lambda x: x >= 1, "at least 1"),
    "depth": (lambda x: x >= 1, "at least 1"),
    "recency_floats": (lambda x: x >= 2 and x % 2 == 0, "an even number above 0"),
    "recency_base": (lambda x: x > 0, "above 0"),
    "recency_clip": (lambda x: x >= 1, "at least 1"),
    "key_deviation": (lambda x: x > 0, "above 0"),
    "frame": (lambda x: x == FRAME, f"{FRAME}, the only supported frame length"),
    "hop": (lambda x: x == HOP, f"{HOP}, the only supported hop length"),
    "window": (lambda x: x == "hann", "'hann', the only supported window"),
    "mode": (lambda x: x in MODES, "'budget' or 'parity'"),
    "positions": (lambda x: x in POSITIONS, "'absolute' or 'cache-relative'"),
    "budget": (lambda x: x >= 1, "at least 1"),
    "interval": (lambda x: x >= HOP and x % HOP == 0, f"a multiple of {HOP}"),
    "watch_last": (lambda x: x >= HOP and x % HOP == 0, f"a multiple of {HOP}"),
}


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a scorer, whose sections `checked_section` checks.

    Raises:
        Refusal: `scorer_unreadable` if it is missing or not JSON, or has an unknown format, missing entries
            or entries of the wrong type.
    """
    try:
        manifest = json.loads((directory / MANIFEST_FILE).read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Refusal("scorer_unreadable", f"{directory} has no readable {MANIFEST_FILE}: {error}") from None
    if not isinstance(manifest, dict) or not REQUIRED.keys() <= manifest.keys():
        raise Refusal("scorer_unreadable", f"the manifest in {directory} lacks required entries")
    if manifest.get("format") != FORMAT:
        raise Refusal(
            "scorer_unreadable", f"unsupported manifest format {manifest.get('format')}; expected {FORMAT}"
        )
    for name, kind in (REQUIRED | OPTIONAL).items():
        if not isinstance(manifest.get(name, kind()), kind):
            raise Refusal(
                "scorer_unreadable", f"'{name}' in the manifest of {directory.name} is not {WORDS[kind]}"
            )
    return manifest


def checked_section(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Check one section of a manifest and return it as keyword arguments of the dataclass `kind`.

    Raises:
        Refusal: `scorer_unreadable` for an unknown entry, a wrong type or a meaningless value.
    """
    hints = get_type_hints(kind)
    unknown = values.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise Refusal("scorer_unreadable", f"unknown manifest entries: {sorted(unknown)}")
    for name, value in values.items():
        kinds = get_args(hints[name]) or (hints[name],)
        if not any(_is_a(value, wanted) for wanted in kinds):
            words = " or ".join(WORDS[wanted] for wanted in kinds)
            raise Refusal("scorer_unreadable", f"'{name}' in the manifest is {value!r}, not {words}")
        holds, words = RULES.get(name, (None, ""))
        if holds and value is not None and not holds(value):
            raise Refusal("scorer_unreadable", f"'{name}' in the manifest is {value!r}; it must be {words}")
    return values


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
