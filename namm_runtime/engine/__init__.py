"""The engine: documents in slots, read and answered step by step."""

from namm_runtime.engine.engine import Answer, Engine, Refusal, Request, Run

__all__ = ["Answer", "Engine", "Refusal", "Request", "Run"]
