"""Measure one reading in a separate process, so that its peak memory is its own.

`python -m benchmarks.measure '{"policy": "keydiff", "budget": 512, "tokens": 65536}'` prints a JSON row.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from namm_runtime.bundled import MODEL_DIR
from namm_runtime.engine import Engine, Request
from namm_runtime.engine.memory import CHUNK
from namm_runtime.machine import machine
from namm_runtime.model.loading import load_model
from namm_runtime.process_pool import ProcessPool
from namm_runtime.tasks.sized import document_of_tokens


def measure(
    policy: str,
    budget: int,
    tokens: int,
    interval: int = CHUNK,
    watch_last: int | None = None,
    facts: int = 30,
    seed: int = 0,
    filler: str = "stdlib",
    reading: str = "open",
) -> dict[str, Any]:
    """Read a document of `tokens` tokens and ask for every planted fact."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "document.txt"
        # In a separate process: generating the document takes more memory than reading it.
        with ProcessPool(1) as pool:
            planted = pool.submit(_write_document, path, tokens, facts, seed, filler).result()
        model = load_model("bundled")
        begun = peak_rss()
        questions = tuple(question for question, _ in planted)
        request = Request(
            path,
            questions,
            policy,
            budget,
            interval=interval,
            watch_last=watch_last,
            max_output_tokens=12,
            reading=reading,
        )
        run = Engine(model).complete(request)
        peak = peak_rss()
    found = [
        answer.text.rstrip(".") == truth for answer, (_, truth) in zip(run.answers, planted, strict=True)
    ]
    usage = run.usage
    spent = usage.seconds["read"] + usage.seconds["score"]
    return {
        "policy": policy,
        "budget": budget,
        "interval": interval,
        "watch_last": watch_last,
        "seed": seed,
        "filler": filler,
        "reading": reading,
        "tokens": usage.tokens_document,
        "asked": len(found),
        "found": sum(found),
        "read_seconds": round(spent, 2),
        "tokens_per_second": round(usage.tokens_document / spent),
        "scorer_share_of_reading": round(usage.seconds["score"] / spent, 4),
        "answer_seconds": round(usage.seconds["answer"], 2),
        "kept_fraction": usage.kept_fraction,
        "kept_bytes": usage.kept_bytes,
        "resident_bytes": usage.resident_bytes,
        "peak_bytes": usage.peak_bytes,
        "dense_bytes": usage.dense_bytes,
        "process_before_bytes": begun,
        "process_peak_bytes": peak,
        "machine": machine(),
    }


def _write_document(path: Path, tokens: int, facts: int, seed: int, filler: str) -> list[tuple[str, str]]:
    """Write the document; returns questions with their answers."""
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    document = document_of_tokens(tokenizer, tokens, facts, seed, filler)  # type: ignore[arg-type]
    path.write_text(document.text)
    return [(planted.fact.question, planted.fact.answer) for planted in document.facts]


def peak_rss() -> int:
    """High-water mark of this process's resident memory, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not report VmHWM")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
