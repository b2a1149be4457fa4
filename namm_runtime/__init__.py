"""NAMM-pruned KV caches for Hugging Face decoders.

The public names can be imported from here; torch is loaded when the first of them is used.
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

# OpenMP threads spin while they wait for each other. With the default spin time, two threads on busy cores
# are slower than one; not spinning at all costs a quarter of the speed on an idle machine. Decision 012 has
# the figures. The variable is read once, when torch is loaded.
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
