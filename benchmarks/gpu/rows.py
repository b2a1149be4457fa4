"""All checks and measurements for half an hour on a GPU: verify the CUDA path, then time it. Writes gpu.json.

    benchmarks/gpu.sh                                           # an H100: checks, then 1,000,000 tokens
    benchmarks/gpu.sh --policies namm,streaming --minutes 4,1   # with a time limit for each policy
    python -m benchmarks.gpu --device cpu                       # the same steps on a tiny shape

Needs torch and transformers, no network and no installation. The file is rewritten after every step, so that
an interrupted run keeps its results; `--steps` selects steps. Exit status 1: a check failed; the timings are
still written.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks import batch_invariance
from benchmarks.gpu import answers, checks, reading
from benchmarks.gpu.reading import Setting
from benchmarks.labels import Row
from namm_runtime.atomic_file import write_text
from namm_runtime.attention import backends
from namm_runtime.attention.backends import probe
from namm_runtime.attention.columns import fold_tiles
from namm_runtime.attention.flash import plain

# Relative errors. Half precision is compared with a double-precision oracle on the same rounded inputs.
FOLD_LIMITS = {"ieee": 1e-5, "tf32x3": 1e-5, "tf32": 1e-3, "torch": 1e-5}
OUTPUT_LIMITS = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
LSE_LIMIT = 1e-3
CAUSAL_LIMIT = 1e-4
STEPS = "checks,answers,kernels,readings"
NO_GPU = 2  # exit status


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("no CUDA device here; `--device cpu` runs the same steps on a tiny shape\n")
        return NO_GPU
    torch.backends.cuda.matmul.allow_tf32 = False  # plain torch is the reference
    options.out.mkdir(parents=True, exist_ok=True)
    result: Row = {"machine": machine(device), "checks": [], "kernels": [], "readings": []}

    def keep(part: str, row: Row) -> None:
        result[part].append(row)
        write_text(options.out / "gpu.json", json.dumps(result, indent=1) + "\n")
        sys.stdout.write(f"{part}: {json.dumps({k: v for k, v in row.items() if k != 'series'})}\n")
        sys.stdout.flush()

    with torch.inference_mode():
        if "checks" in options.steps:
            check(device, lambda row: keep("checks", row))
            keep("checks", scorer_row(device))
            keep("checks", rows_together(device))
        if "answers" in options.steps:
            for row in answers.rows(device):
                keep("checks", row)
        if "kernels" in options.steps or "readings" in options.steps:
            time_it(options, device, keep)
    return 1 if any(row.get("ok") is False for row in result["checks"]) else 0


def check(device: torch.device, keep: Callable[[Row], None]) -> None:
    """Every attention kernel and second pass that runs here, compared with double precision."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    shapes = ((32, 8), (64, 4), (128, 1), (128, 2), (128, 4), (128, 8))
    for dtype in dtypes if device.type == "cuda" else dtypes[:2]:
        for width, group in shapes if device.type == "cuda" else shapes[:2]:
            case = checks.make_case(device, dtype, width, group, start=900, pending=272, queries=256)
            here = {"dtype": str(dtype).removeprefix("torch."), "head": width, "group": group}
            for row in [*attention_rows(case, dtype), *fold_rows(case, device, dtype)]:
                keep(here | row)


def scorer_row(device: torch.device) -> Row:
    """The selected kernel for the scorer's attention, compared with double precision."""
    kernel, rejected = backends.causal(device)
    error = checks.causal_error(kernel, device, tokens=2000)
    return {"check": "scorer", "error": error, "rejected": rejected, "ok": error <= CAUSAL_LIMIT}


def rows_together(device: torch.device) -> Row:
    """How often a keep decision depends on the other rows of a batch, in serving precision."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = reading.random_llama("tiny", device, dtype)
    ids = torch.randint(0, model.vocab_size, (8, 4096), generator=torch.Generator().manual_seed(2)).to(device)
    return {"check": "company"} | batch_invariance.compare(model, reading.random_scorer(), ids, 512, 512)


def attention_rows(case: checks.Case, dtype: torch.dtype) -> list[Row]:
    """Two merged calls on ragged heads, for each available kernel."""
    device, width, group = case.value.device, case.value.shape[-1], case.source.group
    rows: list[Row] = []
    makes = [
        partial(backends.verified_kernel, make, device, dtype, width, group) for make in backends.PREFERENCE
    ]
    for make in (lambda: ("plain", plain), *makes):
        try:
            name, kernel = make()
            output, lse = checks.attention_errors(kernel, case)
        except Exception as error:  # an unavailable kernel becomes a row
            rows.append({"check": "attention", "unavailable": _short(error)})
            continue
        ok = output <= OUTPUT_LIMITS[dtype] and lse <= LSE_LIMIT
        rows.append({"check": "attention", "kernel": name, "output": output, "lse": lse, "ok": ok})
    return rows


def fold_rows(case: checks.Case, device: torch.device, dtype: torch.dtype) -> list[Row]:
    """The second pass in torch and in Triton, on one large case and across evictions."""
    width = case.value.shape[-1]
    folds: list[tuple[str, Any, Row]] = [("torch", fold_tiles, {})]
    if device.type == "cuda":
        try:
            from namm_runtime.attention.kernels import spectrogram
        except ImportError as error:
            return [{"check": "second pass", "unavailable": _short(error)}]
        precisions = ("ieee",) if dtype == torch.float32 else spectrogram.PRECISIONS
        folds += [(precision, spectrogram.fold, {"precision": precision}) for precision in precisions]
    rows: list[Row] = []
    for name, fold, keywords in folds:
        try:
            once = checks.fold_error(fold, case, **keywords)
            evicting = checks.error_through_evictions(
                lambda *given, fold=fold, keywords=keywords: fold(*given, **keywords), device, dtype, width
            )
        except Exception as error:
            rows.append({"check": "second pass", "precision": name, "ok": False, "error": _short(error)})
            continue
        ok = max(once, evicting) <= FOLD_LIMITS[name]
        rows.append(
            {"check": "second pass", "precision": name, "once": once, "through_evictions": evicting, "ok": ok}
        )
    return rows


def time_it(options: argparse.Namespace, device: torch.device, keep: Callable[[str, Row], None]) -> None:
    """Time the kernels over a full cache, then read a long text with every requested policy."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = reading.random_llama(options.shape, device, dtype)
    backend = probe(device, dtype, model.head_width, model.head_group)  # on a CPU too, for the test
    minutes = [float(number) for number in options.minutes.split(",")]

    def setting(policy: str, limit: float = 0.0) -> Setting:
        return Setting(options.shape, policy, options.tokens, options.budget, options.interval, limit * 60)

    if "kernels" in options.steps:
        for row in reading.time_kernels(model, setting("namm")):
            keep("kernels", row)
    if "readings" in options.steps:
        wanted = options.policies.split(",")
        for policy, limit in zip(wanted, minutes + minutes[-1:] * len(wanted), strict=False):
            keep("readings", reading.read(model, setting(policy, limit), backend))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def machine(device: torch.device) -> Row:
    """The device and the versions of libraries."""
    found: Row = {"date": datetime.now(UTC).date().isoformat(), "python": platform.python_version()}
    for package in ("torch", "transformers", "triton", "flash-attn"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    found["device"] = "cpu"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    return found


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = Path(os.environ.get("OUT") or Path(__file__).parents[1] / "results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=out, help="directory for gpu.json (default: $OUT)")
    parser.add_argument("--steps", default=STEPS, help="which of these (default: all)")
    parser.add_argument("--shape", choices=sorted(reading.SHAPES), help="default: 8b, on a CPU tiny")
    parser.add_argument("--tokens", type=int, help="default: 1,000,000, on a CPU 4,096")
    parser.add_argument(
        "--minutes",
        default="5",
        help="limit per policy, one or several (default: 5)",
    )
    parser.add_argument("--budget", type=int, help="slots per head; default: 8,192, on a CPU 512")
    parser.add_argument("--interval", type=int, default=512, help="tokens between evictions (default: 512)")
    parser.add_argument("--policies", default="namm", help="comma-separated (default: namm)")
    options = parser.parse_args(arguments)
    small = options.device == "cpu"
    options.shape = options.shape or ("tiny" if small else "8b")
    options.tokens = options.tokens or (4096 if small else 1_000_000)
    options.budget = options.budget or (512 if small else 8192)
    options.steps = options.steps.split(",")
    return options
