"""The engine: reads documents and answers questions about them, step by step, several at a time."""

from namm_runtime.engine.engine import Answer, Engine, Refusal, Request, Run

__all__ = ["Answer", "Engine", "Refusal", "Request", "Run"]
