"""Speed and memory of a model's linear layers in fp32, in bf16 and packed to 8 or 4 bits, on a CPU.

`python -m benchmarks.packed_weights '{"model": "smollm2-135m", "weights": "bfloat16"}'` reads a text in
intervals and writes single tokens with one kind of weights, in a separate process, and prints one JSON row.
`agreement` is the share of positions at which the likeliest next token is that of fp32.
"""

import json
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

from namm_runtime import policies
from namm_runtime.bundled import MODEL_DIR
from namm_runtime.engine.memory import CHUNK, Memory
from namm_runtime.machine import machine
from namm_runtime.model.loading import LoadedModel, load_model

# The dtype of activations, and how weights are packed.
WEIGHTS = {
    "float32": ("float32", None),
    "bfloat16": ("bfloat16", None),
    "int8, dynamic": ("float32", "dynamic"),
    "int8, weights only": ("bfloat16", "int8"),
    "int4, weights only": ("bfloat16", "int4"),
}
GROUP = 64  # weights that share a scale in 4 bits
BUDGET = 1024
READ, WRITTEN = 4 * CHUNK, 32  # tokens


class Int8Linear(nn.Module):
    """Weights [N, K] in 8 bits with a scale per output; products by PyTorch's own kernel."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-8) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(linear.weight.dtype))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] → [..., N]."""
        flat = torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.weight, self.scale)
        result = flat.view(*x.shape[:-1], -1)
        return result if self.bias is None else result + self.bias


class Int4Linear(nn.Module):
    """Weights [N, K] in 4 bits with a scale and zero per `GROUP` of them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        groups = weight.view(weight.shape[0], -1, GROUP)
        low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)
        scale = ((high - low) / 15).clamp(min=1e-8)
        packed = ((groups - low) / scale).round().clamp(0, 15).to(torch.int32).view_as(weight)
        # The kernel computes (q - 8) · scale + zero.
        both = torch.cat((scale, low + 8 * scale), dim=2).transpose(0, 1).contiguous()
        self.register_buffer("weight", torch._convert_weight_to_int4pack_for_cpu(packed, 1))
        self.register_buffer("scales_and_zeros", both.to(linear.weight.dtype))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] → [..., N]."""
        flat = torch._weight_int4pack_mm_for_cpu(
            x.reshape(-1, x.shape[-1]), self.weight, GROUP, self.scales_and_zeros
        )
        result = flat.view(*x.shape[:-1], -1)
        return result if self.bias is None else result + self.bias


def measure(model: str, weights: str) -> dict[str, Any]:
    """Read `READ` tokens in intervals, then write `WRITTEN` tokens one by one."""
    dtype, packing = WEIGHTS[weights]
    exact = load_model(model, dtype="float32")
    ids = exact.encode((MODEL_DIR.parents[2] / "README.md").read_text())[:, : READ + WRITTEN]
    expected = _likeliest(exact, ids)
    loaded = exact if dtype == "float32" else load_model(model, dtype=dtype)
    pack(loaded.model.model.layers, packing)
    agreement = (_likeliest(loaded, ids) == expected).float().mean()

    memory = Memory(loaded, policies.make("keydiff", BUDGET), BUDGET, CHUNK)
    memory.feed(ids[:, :CHUNK])  # prepares the kernels
    begun = time.perf_counter()
    for piece in ids[:, CHUNK:READ].split(CHUNK, dim=1):
        memory.feed(piece)
    read = time.perf_counter() - begun
    begun = time.perf_counter()
    for piece in ids[:, READ:].split(1, dim=1):
        memory.feed(piece)
    written = time.perf_counter() - begun
    return {
        "model": model,
        "weights": weights,
        "layer_bytes": layer_bytes(loaded.model.model.layers),
        "read_tokens_per_second": round((READ - CHUNK) / read, 1),
        "write_tokens_per_second": round((ids.shape[1] - READ) / written, 2),
        "agreement": round(float(agreement), 4),
        "machine": machine(),
    }


def pack(layers: nn.Module, packing: str | None) -> None:
    """Replace the linear layers below `layers` by packed ones."""
    if packing is None:
        return
    if packing == "dynamic":
        torch.ao.quantization.quantize_dynamic(layers, {nn.Linear}, dtype=torch.qint8, inplace=True)
        return
    kind = Int8Linear if packing == "int8" else Int4Linear
    for module in list(layers.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, kind(child))


def layer_bytes(layers: nn.Module) -> int:
    """Bytes of the weights, packed or not, without embeddings."""
    found = 0
    for value in layers.state_dict().values():
        tensors = value if isinstance(value, tuple) else (value,)
        found += sum(one.numel() * one.element_size() for one in tensors if isinstance(one, Tensor))
    return found


@torch.inference_mode()
def _likeliest(model: LoadedModel, ids: Tensor) -> Tensor:
    """[T] the likeliest next token at each of the first `CHUNK` positions."""
    plain = model.model.config._attn_implementation
    model.model.set_attn_implementation("sdpa")
    try:
        logits = model.model(ids[:, :CHUNK], use_cache=False).logits
    finally:
        model.model.set_attn_implementation(plain)
    return logits[0].argmax(dim=-1)


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))  # noqa: T201
