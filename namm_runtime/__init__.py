"""NAMM-pruned KV caches for Hugging Face decoders.

What a program needs is importable from here; torch is loaded with the first of these names.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from namm_runtime.answering import Answer, ask
    from namm_runtime.engine import Engine, Request
    from namm_runtime.errors import Refusal
    from namm_runtime.loading import LoadedModel, load_model
    from namm_runtime.memory import Memory
    from namm_runtime.policies import make as make_policy

# Unless told not to, OpenMP's threads spin while they wait for each other. On cores that others want too, two
# threads are then slower than one. It is read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
    "Answer": "answering",
    "Engine": "engine",
    "LoadedModel": "loading",
    "Memory": "memory",
    "Refusal": "errors",
    "Request": "engine",
    "ask": "answering",
    "load_model": "loading",
}


def __getattr__(name: str) -> Any:
    if name == "make_policy":
        return import_module("namm_runtime.policies").make
    if name in _HOMES:
        return getattr(import_module(f"namm_runtime.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'namm_runtime' has no attribute '{name}'")
