"""Write a GGUF file as a directory in transformers' own layout, in bf16.

python -m namm_runtime.model.converting FILE.gguf DIRECTORY
"""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from namm_runtime.errors import Refusal


def convert(file: Path, out: Path, report: Callable[[int], None]) -> None:
    """Write configuration, weights, tokenizer and chat template to the new directory `out`.

    A process of its own does it, so that its memory is free again afterwards.

    Args:
        report: called with the bytes written so far, about five times a second.

    Raises:
        Refusal: `conversion_failed`.
    """
    command = [sys.executable, "-m", "namm_runtime.model.converting", str(file), str(out)]
    messages = out.with_name("convert.log")
    with messages.open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                report(sum(written.stat().st_size for written in out.glob("*.safetensors")))
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        last = (messages.read_text(errors="replace").strip().splitlines() or [""])[-1]
        reason = "it was killed, perhaps for lack of memory" if process.returncode < 0 else last
        raise Refusal("conversion_failed", f"{file.name} could not be converted: {reason}")


def weights_sha256(folder: Path) -> dict[str, str]:
    """Digest of every weights file."""
    digests = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            digests[file.name] = hashlib.file_digest(weights, "sha256").hexdigest()
    return digests


def _convert(file: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from namm_runtime.model.gguf_model import gguf_options, unpack

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.bfloat16, **gguf_options(file))
    unpack(model)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for written in out.iterdir():
        written.chmod(0o644)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
