"""Cross-compile the Triton kernels without a GPU: registers, spills and shared memory, as JSON rows.

`python -m benchmarks.gpu.compile` needs Triton (its wheel includes ptxas) but no GPU. It shows that the
kernels compile and fit, not that they are correct: `benchmarks.gpu` verifies that on a GPU.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
ALIGNED = {"query_batch", "query_head", "query_token", "key_batch", "key_head", "key_slot", "carry_slot"}


def compiled(capability: int, dtype: torch.dtype, width: int, group: int) -> dict[str, Any]:
    """Resource usage of the spectrogram kernel by ptxas for one GPU generation (80: A100, 90: H100)."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from namm_runtime.attention.kernels import spectrogram

    options = spectrogram.constants(dtype, width, group)
    warps = options.pop("num_warps")
    pointers = dict.fromkeys(("query", "key"), f"*{NAMES[dtype]}")
    pointers |= dict.fromkeys(("lse", "ema", "carry", "basis"), "*fp32") | {"lengths": "*i64"}
    kinds = pointers | dict.fromkeys(("scale", "fade", "gain"), "fp32") | dict.fromkeys(options, "constexpr")
    names = spectrogram._fold.arg_names
    source = ASTSource(
        fn=spectrogram._fold,
        signature={name: kinds.get(name, "i32") for name in names},
        constexprs=options,
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if name in pointers or name in ALIGNED
        },
    )
    target = GPUTarget("cuda", capability, 32)
    kernel = triton.compile(source, target=target, options={"num_warps": warps})
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as ptx:
        ptx.write(kernel.asm["ptx"])
        ptx.flush()
        architecture = f"sm_{capability}{'a' if capability >= 90 else ''}"
        command = [
            triton.knobs.nvidia.ptxas.path,
            "-v",
            f"--gpu-name={architecture}",
            ptx.name,
            "-o",
            os.devnull,
        ]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {
        "architecture": architecture,
        "dtype": NAMES[dtype],
        "head": width,
        "group": group,
        "registers": _number(r"Used (\d+) registers", report),
        "spilled_bytes": _number(r"(\d+) bytes spill stores", report),
        "shared_bytes": kernel.metadata.shared,
        "wgmma": "warp_group_dot" in kernel.asm["ttgir"],
        "triton": triton.__version__,
    }


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else -1


if __name__ == "__main__":
    for capability in (80, 90):
        for dtype in NAMES:
            for width, group in ((32, 8), (64, 4), (128, 1), (128, 4), (128, 8)):
                sys.stdout.write(json.dumps(compiled(capability, dtype, width, group)) + "\n")
