"""Load weights from a GGUF file with transformers' reader, as plain tensors."""

from pathlib import Path
from typing import Any

from transformers import GgufConfig


def gguf_options(file: Path) -> dict[str, Any]:
    """Arguments of `from_pretrained` beside the file's folder."""
    return {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}


def unpack(model: Any) -> None:
    """Drop the traces of the packed format, so that it is a model of plain weights."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
