"""The small Llamas that ship with the package, and the one command that made them."""

from pathlib import Path

MODELS = {
    "bundled": Path(__file__).parent / "llama",
    # Of another shape, for scorers evolved on the first one: transfer is measured with it.
    "bundled-deep": Path(__file__).parent / "deep",
}
"""Folders of trained models and their tokenizers, in transformers' own layout."""

MODEL_DIR = MODELS["bundled"]
