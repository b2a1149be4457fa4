"""Time a Llama with random weights on a long text of random tokens, compared with the minimum work.

Random weights attend almost uniformly: tokens per second and bytes are realistic, quality is not measured.
Nothing is downloaded.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from namm_runtime import policies
from namm_runtime.attention.backends import Backend, probe
from namm_runtime.attention.columns import ColumnSource
from namm_runtime.attention.rope import Rotation
from namm_runtime.attention.spectrogram import BINS, HOP, Spectrogram
from namm_runtime.attention.two_pass import attend
from namm_runtime.engine.memory import CHUNK, Memory
from namm_runtime.model.loading import LoadedModel
from namm_runtime.policies.base import Policy
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig

SHAPES: dict[str, dict[str, Any]] = {
    # Llama 3 8B
    "8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
    },
    "tiny": {
        "vocab_size": 256,
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
    },
}
# Dense bf16 products without sparsity, from NVIDIA's data sheets (SXM parts).
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
DFT_FLOPS = 2 * 2 * 32 * 16 / HOP  # a query, key and KV head: two products of [32] × [32, 16] every hop


@dataclass(frozen=True)
class Setting:
    """What is read, and how."""

    shape: str
    policy: str
    tokens: int
    budget: int
    interval: int
    seconds: float  # when to stop reading


def random_llama(shape: str, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """A Llama of a known shape with random weights, created on the device."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], rope_parameters={"rope_type": "default", "rope_theta": 500_000.0})
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="bounded").eval()
    window = int(config.max_position_embeddings)
    return LoadedModel(f"Llama, {shape}, random weights", "random", model, None, Rotation.of(model), window)


def random_scorer() -> Scorer:
    config = ScorerConfig(threshold=None)
    parameters = torch.randn(config.network.size, generator=torch.Generator().manual_seed(0)) * 0.2
    return Scorer("random", "1", config, parameters, torch.full((BINS,), 1e-3), torch.full((BINS,), 1e-6))


def read(model: LoadedModel, setting: Setting, backend: Backend | None) -> dict[str, Any]:
    """Read up to `tokens` random tokens, or until time is up. Filling the cache at first is warm-up."""
    bundled = policies.scorer_of(setting.policy)
    scorer = checkpoint.load(checkpoint.resolve(bundled).path) if bundled else None
    policy = policies.make(setting.policy, setting.budget, scorer)
    memory = Memory(model, policy, setting.budget, setting.interval, backend=backend)
    generator = torch.Generator().manual_seed(1)
    warm = min(setting.budget + 2 * setting.interval, setting.tokens // 2) // CHUNK * CHUNK
    _reset_peak(model.device)
    begun = started = time.perf_counter()
    warm_seconds, series, read_tokens = 0.0, [], 0
    while read_tokens < setting.tokens:
        size = min(CHUNK, setting.tokens - read_tokens)
        ids = torch.randint(0, model.vocab_size, (1, size), generator=generator).to(model.device)
        memory.feed(ids)
        read_tokens += size
        if read_tokens == warm:
            _synchronise(model.device)
            begun = time.perf_counter()
            warm_seconds = begun - started
        if read_tokens % (32 * CHUNK) == 0:  # without synchronising, queued work would distort the clock
            _synchronise(model.device)
            series.append([read_tokens, round(time.perf_counter() - started, 3)])
            if time.perf_counter() - started > setting.seconds:
                break
    _synchronise(model.device)
    seconds = time.perf_counter() - begun
    answer_milliseconds = _answer(memory)
    rate = (read_tokens - warm) / seconds
    # In a growing cache the cost per token is not constant.
    work = flops_a_token(model, setting, policy) if policy.evicts else {}
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in _device_name(model.device)), None)
    floor = peak / sum(work.values()) if peak and work else None
    return {
        "model": model.name,
        "policy": setting.policy,
        "budget": setting.budget,
        "interval": setting.interval,
        "attention": memory.context.backend_name,
        "passed_over": backend.rejected if backend else (),
        "asked_tokens": setting.tokens,
        "tokens": read_tokens,
        "complete": read_tokens == setting.tokens,
        "warm_tokens": warm,
        "warm_seconds": round(warm_seconds, 3),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(rate, 1),
        "flops_a_token": work,
        "floor_tokens_per_second": round(floor, 1) if floor else None,
        "share_of_floor": round(rate / floor, 4) if floor else None,
        "answer_milliseconds": round(answer_milliseconds, 2),
        "peak_bytes": _peak(model.device),
        "weight_bytes": sum(parameter.nbytes for parameter in model.model.parameters()),
        "cache_bytes": memory.cache.resident_bytes(),
        "series": series,
    }


def _answer(memory: Memory, tokens: int = 16) -> float:
    """Milliseconds per token when tokens are fed one by one."""
    one = torch.zeros(1, 1, dtype=torch.int64, device=memory.model.device)
    memory.feed(one)
    _synchronise(one.device)
    begun = time.perf_counter()
    for _ in range(tokens):
        memory.feed(one)
    _synchronise(one.device)
    return (time.perf_counter() - begun) / tokens * 1e3


def flops_a_token(model: LoadedModel, setting: Setting, policy: Policy) -> dict[str, float]:
    """FLOPs per token (a multiply-add counts as two) once the cache is full.

    Derived from shapes, not measured: a query sees the kept slots plus, on average, half an interval of
    pending tokens.
    """
    config = model.config
    layers = model.model.get_decoder().layers
    linear = 2 * sum(p.numel() for p in layers.parameters() if p.dim() == 2)
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, model.head_width
    seen = setting.budget + setting.interval / 2
    pairs = config.num_hidden_layers * seen
    work = {
        "linear": float(linear),
        "logits": 2 * config.vocab_size * config.hidden_size / CHUNK,
        "attention": 4.0 * width * heads * pairs,
    }
    if isinstance(policy, Namm):
        full = setting.budget + setting.interval
        bam = 4 * policy.scorer.config.width * full * full / 2
        work["scorer"] = config.num_hidden_layers * kv_heads * bam / setting.interval
        if policy.observes:
            work["columns"] = 2.0 * width * heads * pairs
            work["spectrum"] = DFT_FLOPS * kv_heads * pairs
    return work


def time_kernels(model: LoadedModel, setting: Setting, repeats: int = 20) -> list[dict[str, Any]]:
    """Milliseconds and FLOP rate of one layer's attention and second pass over a full cache."""
    device, dtype = model.device, model.model.dtype
    backend = probe(device, dtype, model.head_width, model.head_group)
    memory = Memory(model, policies.make("streaming", setting.budget), setting.budget, setting.interval)
    ids = torch.randint(0, model.vocab_size, (1, CHUNK), device=device)
    queries = min(CHUNK, setting.interval)
    while memory.cache.layers[0].start < setting.budget:
        memory.feed(ids)
    memory.feed(ids[:, : queries - 16])  # stop short of the next eviction
    layer = memory.cache.layers[0]
    query = torch.randn(
        1, model.config.num_attention_heads, layer.pending, model.head_width, device=device, dtype=dtype
    )
    pairs = query.shape[1] * query.shape[2] * (layer.used - layer.pending / 2)
    scaling = model.head_width**-0.5
    source = attend(backend.kernel, query, layer.keys, layer, scaling, layer.used)[1]
    ema, carry = (torch.zeros(*layer.keys.shape[:3], floats, device=device) for floats in (BINS, HOP))
    spectrogram = Spectrogram()

    def second_pass(source: ColumnSource = source) -> None:
        backend.fold(spectrogram, source, ema, carry)

    calls = (
        (
            "two calls and merge",
            4,
            lambda: attend(backend.kernel, query, layer.keys, layer, scaling, layer.used),
        ),
        ("second pass", 2, second_pass),
    )
    rows = []
    for name, products, call in calls:
        call()
        _synchronise(device)
        begun = time.perf_counter()
        for _ in range(repeats):
            call()
        _synchronise(device)
        seconds = (time.perf_counter() - begun) / repeats
        rows.append(
            {
                "kernel": name,
                "backend": backend.name,
                "queries": query.shape[2],
                "slots": layer.used,
                "milliseconds": round(seconds * 1e3, 4),
                "tflops": round(products * model.head_width * pairs / seconds / 1e12, 2),
            }
        )
    return rows


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
