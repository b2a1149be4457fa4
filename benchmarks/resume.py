"""Reading in one go, compared with reading half, saving, and resuming in a new process.

`compare` does the first two in one process and the third in another, and compares tokens and caches bit for
bit. `python -m benchmarks.resume '[{"document": "d.txt", "prompts": ["Invoice 1 total:"]}]'` runs parts.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from namm_runtime.bundled import MODEL_DIR
from namm_runtime.engine import Engine, Request
from namm_runtime.machine import machine
from namm_runtime.model.loading import load_model
from namm_runtime.tasks.sized import document_of_tokens

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Part:
    """A reading, or a part of one.

    Attributes:
        snapshot: to resume from; None starts at the beginning.
        save: write a snapshot here and stop, once `stop_at` tokens have been read and, with
            `stop_answering`, that many prompts are answered and the next one has been started.
    """

    document: str
    prompts: list[str]
    model: str = "bundled"
    policy: str = "namm-key"
    temperature: float = 0.0
    max_output_tokens: int = 24
    threads: int = 1
    snapshot: str | None = None
    save: str | None = None
    stop_at: int = 0
    stop_answering: int | None = None


def run_part(part: Part) -> dict[str, Any]:
    """Read and answer, or stop at the snapshot; returns what was measured."""
    torch.set_num_threads(part.threads)
    request = Request(
        Path(part.document),
        tuple(part.prompts),
        part.policy,
        temperature=part.temperature,
        max_output_tokens=part.max_output_tokens,
    )
    engine = Engine(load_model(part.model))
    begun = time.perf_counter()
    run = engine.admit(request, Path(part.snapshot) if part.snapshot else None)
    while run.phase != "done":
        engine.step()
        if part.save and run.memory is not None and run.tokens_read >= part.stop_at:
            wanted = part.stop_answering
            begun_next = run.phase == "answering" and run.answering is not None
            if wanted is None or (begun_next and len(run.answers) == wanted):
                run.snapshot(Path(part.save))
                break
    if run.error:
        raise run.error
    assert run.memory is not None
    digest = hashlib.sha256()
    for name, tensor in sorted(run.memory.tensors().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return {
        "tokens": run.tokens_read,
        "seconds": round(time.perf_counter() - begun, 2),
        "answers": [asdict(answer) for answer in run.answers],
        "produced": len(run.answering.produced) if run.answering else 0,
        "cache_sha256": digest.hexdigest(),
        "tokens_prompt": run.usage.tokens_prompt,
        "tokens_generated": run.usage.tokens_generated,
    }


def compare(part: Part, stop_at: int, stop_answering: int | None = None) -> dict[str, Any]:
    """Run `part` in one go, and again up to a snapshot from which a new process resumes."""
    with tempfile.TemporaryDirectory() as directory:
        snapshot = str(Path(directory) / "snapshot")
        half = replace(part, save=snapshot, stop_at=stop_at, stop_answering=stop_answering)
        straight, first = _in_a_process(part, half)
        size = Path(snapshot).stat().st_size
        (second,) = _in_a_process(replace(part, snapshot=snapshot))
    same = ("tokens", "answers", "cache_sha256", "tokens_prompt", "tokens_generated")
    return {
        "tokens": straight["tokens"],
        "saved_at": first["tokens"],
        "answers": len(straight["answers"]),
        "answer_tokens": sum(answer["tokens"] for answer in straight["answers"]),
        "saved_in_answer": first["produced"],
        "temperature": part.temperature,
        "policy": part.policy,
        "seconds": straight["seconds"],
        "seconds_in_two": [first["seconds"], second["seconds"]],
        "snapshot_bytes": size,
        "identical": all(straight[name] == second[name] for name in same),
        "differs": [name for name in same if straight[name] != second[name]],
    }


def check(
    tokens: int, policy: str = "namm-key", temperature: float = 1.0, threads: int = 1
) -> dict[str, Any]:
    """`compare` on a document of `tokens` tokens, saved in the middle, as a row of the results."""
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    document = document_of_tokens(tokenizer, tokens, 8, 0)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "document.txt"
        path.write_text(document.text)
        prompts = [planted.fact.question for planted in document.facts]
        part = Part(str(path), prompts, policy=policy, temperature=temperature, threads=threads)
        return compare(part, tokens // 2) | {"threads": threads, "machine": machine()}


def _in_a_process(*parts: Part) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.resume", json.dumps([asdict(part) for part in parts])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


if __name__ == "__main__":
    sys.stdout.write(json.dumps([run_part(Part(**part)) for part in json.loads(sys.argv[1])]) + "\n")
