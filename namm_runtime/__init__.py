"""NAMM-pruned KV caches for Hugging Face decoders.

What a program needs is importable from here; torch is loaded with the first of these names.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from namm_runtime.engine import Answer, Engine, Request
    from namm_runtime.engine.answering import ask
    from namm_runtime.engine.memory import Memory
    from namm_runtime.errors import Refusal
    from namm_runtime.model.loading import LoadedModel, load_model
    from namm_runtime.policies import make as make_policy

# OpenMP's threads spin while they wait for each other. For as long as they do by default, two threads on
# cores that others want too are slower than one; sleeping at once costs a quarter where nothing else runs.
# Decision 012 has figures. It is read once, when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__all__ = [
    "Answer",
    "Engine",
    "LoadedModel",
    "Memory",
    "Refusal",
    "Request",
    "ask",
    "load_model",
    "make_policy",
]

_HOMES = {
    "Answer": "engine",
    "Engine": "engine",
    "LoadedModel": "model.loading",
    "Memory": "engine.memory",
    "Refusal": "errors",
    "Request": "engine",
    "ask": "engine.answering",
    "load_model": "model.loading",
}


def __getattr__(name: str) -> Any:
    if name == "make_policy":
        return import_module("namm_runtime.policies").make
    if name in _HOMES:
        return getattr(import_module(f"namm_runtime.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'namm_runtime' has no attribute '{name}'")
