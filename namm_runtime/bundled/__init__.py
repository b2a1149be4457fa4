"""The small Llama that ships with the package, and the one command that made it."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "llama"
"""Folder of the trained model and its tokenizer, in transformers' own layout."""
