"""The small Llamas and the scorers that ship with the package. `namm_runtime.training` made the models."""

from pathlib import Path

MODELS = {
    "bundled": Path(__file__).parent / "llama",
    # Of another shape, to measure the transfer of scorers that were evolved on the first one.
    "bundled-deep": Path(__file__).parent / "deep",
}
"""Folders of trained models and their tokenizers, in transformers' own layout."""

MODEL_DIR = MODELS["bundled"]
