"""Tests with a real Llama. Together they have to stay under two minutes on two cores."""

from tests.support.smollm2 import smollm2, smollm2_model

__all__ = ["smollm2", "smollm2_model"]
